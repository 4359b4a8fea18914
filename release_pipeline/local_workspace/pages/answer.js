// Reads an answer as it comes: text, tool calls, citations and errors, of a ResponsesAgent or a ChatAgent.

/** The JSON of each server-sent event, until the stream says that it is done. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    buffer += value ?? "";
    const pieces = buffer.split(/\r?\n\r?\n/);
    buffer = done ? "" : pieces.pop();
    for (const piece of pieces) {
      const lines = piece.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
    if (done) throw new Error("The stream broke off before its end.");
  }
}

/** What an answer has said so far. */
export class Answer {
  text = "";
  tools = [];
  citations = [];
  error = "";
  #item = null; // whose text came last

  /** Take one event of a stream, or the whole answer of a request that was not streamed. */
  take(event) {
    const error = event.databricks_output?.error ?? event.error;
    if (error) this.error = error.message ?? String(error);
    if (event.type === "response.output_text.delta") this.#say(event.item_id, event.delta);
    if (event.type === "response.output_item.done") this.#finish(event.item);
    if (typeof event.delta?.content === "string") this.#say(event.delta.id, event.delta.content);
    for (const item of event.output ?? []) this.#finish(item);
    for (const message of event.messages ?? []) this.#say(message.id, message.content ?? "");
  }

  #say(item, text) {
    if (this.text && this.#item !== null && item !== this.#item) this.text += "\n\n";
    this.#item = item ?? null;
    this.text += text;
  }

  #finish(item) {
    if (item?.type === "function_call") this.tools.push(`${item.name}(${item.arguments ?? ""})`);
    if (item?.type === "function_call_output") this.tools.push(`→ ${asText(item.output)}`);
    if (item?.type !== "message") return;
    const parts = (item.content ?? []).filter((part) => typeof part.text === "string");
    // Of an item that was streamed, the text is there already.
    if (item.id === undefined || item.id !== this.#item) this.#say(item.id, parts.map((part) => part.text).join(""));
    for (const part of parts) {
      for (const note of part.annotations ?? []) {
        this.citations.push({ title: note.title ?? note.filename ?? note.url ?? "source", uri: note.url ?? "", text: "" });
      }
    }
  }
}

/** The documents that the retrievers of a trace have found, by the names that the agent declared for its columns. */
export function sources(trace, spans) {
  const schemas = parsed((trace.tags ?? {}).retrievers) ?? [];
  const found = [];
  for (const span of spans) {
    const attributes = span.attributes ?? {};
    if (parsed(attributes["mlflow.spanType"]) !== "RETRIEVER") continue;
    const schema = schemas.find((each) => each.name === span.name) ?? {};
    const documents = parsed(attributes["mlflow.spanOutputs"]);
    for (const document of Array.isArray(documents) ? documents : []) {
      const field = (column, usual) => document[column ?? usual] ?? document.metadata?.[column ?? usual];
      const uri = asText(field(schema.doc_uri, "doc_uri") ?? "");
      const key = asText(field(schema.primary_key, "id") ?? "");
      found.push({ title: uri || key || span.name, uri, text: asText(field(schema.text_column, "page_content") ?? "") });
    }
  }
  return found;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
