"""Doors: each module behind one has what the core asks of it. The type checker compares them."""

from __future__ import annotations

import moa.adapters.drawing
import moa.adapters.langgraph.door
import moa.adapters.otel
import moa.adapters.sqlite
import moa.config.fields
import moa.core.node_base
import moa.core.telemetry.spans
import moa.decisions.encoders
import moa.decisions.fitting
import moa.endpoints.named
import moa.learning.adapt
import moa.learning.door
import moa.learning.examples
import moa.local.embedded
import moa.local.encoders
import moa.local.heads
import moa.rows.door
import moa.vllm.endpoint
from moa.core.stores import SQLiteStores
from moa.graphs.cascade import Learning
from moa.graphs.engine.compilable import LangGraph
from moa.graphs.engine.sketch import Drawings
from moa.graphs.fields import Tables

DRAWINGS: Drawings = moa.adapters.drawing
LANGGRAPH: LangGraph = moa.adapters.langgraph.door
LEARNING: Learning = moa.learning.door
OTEL: moa.core.telemetry.spans.OTel = moa.adapters.otel
ROWS: moa.core.node_base.Rows = moa.rows.door
STORES: SQLiteStores = moa.adapters.sqlite
TABLES: Tables = moa.config.fields
FITTING: moa.decisions.fitting.Fitting = moa.learning.adapt
LABELLED_FILES: moa.decisions.fitting.LabelledFiles = moa.learning.examples
EMBEDDED: moa.endpoints.named.Embedded = moa.local.embedded
ENCODERS: moa.decisions.encoders.LocalEncoders = moa.local.encoders
HEADS: moa.decisions.encoders.ShippedHeads = moa.local.heads
VLLM: moa.endpoints.named.VLLMServers = moa.vllm.endpoint
