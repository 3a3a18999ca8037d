"""The public names of `moa`, and the module of each: the one list of them.

Type checkers read it as it is, and `__init__.py` loads a name from here at first use.
"""

from moa import vllm as vllm
from moa.agents import Agent as Agent
from moa.agents.classifier import Classifier as Classifier
from moa.agents.deciding import Decider as Decider
from moa.agents.extractor import Extractor as Extractor
from moa.agents.filter import Filter as Filter
from moa.agents.preprocessor import Preprocessor as Preprocessor
from moa.agents.reasoner import Reasoner as Reasoner
from moa.agents.sentiment import Sentiment as Sentiment
from moa.agents.tools import Tool as Tool
from moa.budget import Budget as Budget
from moa.calibration.file import Calibration as Calibration
from moa.calibration.fit import calibrate as calibrate
from moa.calibration.labelled import Labelled as Labelled
from moa.chat.graph import Chat as Chat
from moa.config.endpoints import Endpoints as Endpoints
from moa.context import RunContext as RunContext
from moa.endpoints.embedded import EmbeddedEndpoint as EmbeddedEndpoint
from moa.endpoints.named import endpoint as endpoint
from moa.endpoints.openai import OpenAIEndpoint as OpenAIEndpoint
from moa.endpoints.vllm import VLLMEndpoint as VLLMEndpoint
from moa.endpoints.wrappers import Fallback as Fallback
from moa.errors import MoaError as MoaError
from moa.graphs import Graph as Graph
from moa.graphs import Skipped as Skipped
from moa.graphs import as_langgraph as as_langgraph
from moa.graphs.cascade import Cascade as Cascade
from moa.graphs.mixture import Mixture as Mixture
from moa.graphs.rag import Rag as Rag
from moa.graphs.summarize import Summarize as Summarize
from moa.graphs.support import Support as Support
from moa.guards.guarded import Guarded as Guarded
from moa.messages import Message as Message
from moa.node import Node as Node
from moa.node import Reply as Reply
from moa.node import Result as Result
from moa.node import Text as Text
from moa.questions import Choice as Choice
from moa.questions import Predicate as Predicate
from moa.questions import Score as Score
from moa.questions import choice as choice
from moa.questions import predicate as predicate
from moa.questions import score as score
from moa.serving.app import serve as serve
from moa.usage import Price as Price

__all__: list[str]
