// Where the page reads from: the studio's server, or the block of data in the page itself.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

class Remote {
  constructor() {
    this.isFile = false;
  }

  headers(accept) {
    const key = sessionStorage.getItem("moa-studio-key");
    return key ? { accept, authorization: `Bearer ${key}` } : { accept };
  }

  async ask(path, body) {
    const headers = this.headers("application/json");
    if (body !== undefined) headers["content-type"] = "application/json";
    const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(`api/${path}`, { ...how, headers }).catch(() => {
      throw new Refused(0, "the server doesn't answer: is it still running?");
    });
    const found = await response.json();
    if (!response.ok) throw new Refused(response.status, found.error?.message || "it failed");
    return found;
  }

  setKey(key) {
    sessionStorage.setItem("moa-studio-key", key);
  }

  state() {
    return this.ask("state");
  }

  overview() {
    return this.ask("overview");
  }

  rows(query) {
    const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null);
    return this.ask(`rows?${new URLSearchParams(given)}`);
  }

  row(place) {
    return this.ask(`rows/${place}`);
  }

  label(row, question, label) {
    return this.ask("labels", { place: row.place, id: row.id, digest: row.digest, question, label });
  }

  questions() {
    return this.ask("questions");
  }

  answer(id, answer) {
    return this.ask(`questions/${id}`, { answer });
  }

  undo() {
    return this.ask("undo", {});
  }

  reload() {
    return this.ask("reload", {});
  }

  learn(start) {
    return this.ask("learn", start ? {} : undefined);
  }
}

class Embedded {
  constructor(data) {
    this.isFile = true;
    this.data = data;
  }

  async state() {
    return { ready: true };
  }

  async overview() {
    return this.data.overview;
  }

  async rows(query) {
    const found = this.data.rows.filter((row) => this.matches(row, query));
    return { total: found.length, rows: found.slice(query.offset, query.offset + query.limit) };
  }

  async row(place) {
    return this.data.details[place];
  }

  matches(row, query) {
    const said = Object.entries(row.said).filter(([name]) => !query.question || name === query.question);
    const search = (query.search || "").toLowerCase();
    return (
      (!query.tag || row.tags.includes(query.tag)) &&
      (!query.queue || row.queue === query.queue) &&
      (!query.label || said.some(([, one]) => one.label === query.label)) &&
      (query.node === "" || query.node === null || row.nodes.includes(query.node)) &&
      (!search || row.text.toLowerCase().includes(search) || row.id.toLowerCase() === search)
    );
  }
}

export function openSource() {
  const block = document.getElementById("data");
  return block ? new Embedded(JSON.parse(block.textContent)) : new Remote();
}
