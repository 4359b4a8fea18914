// The workspace's own API, as every other client uses it: with the token as a bearer, never with a cookie.

/** An answer that is no success; `code` is the service's name of the error. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Workspace {
  constructor(token) {
    this.token = token;
  }

  /** The answer to one request; throws an ApiError unless it is a success. */
  async fetch(method, path, body) {
    const headers = { Authorization: `Bearer ${this.token}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = { method, headers, body: JSON.stringify(body), credentials: "omit", redirect: "error" };
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new ApiError(0, "", "The workspace does not answer; is it still running?");
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    const error = new ApiError(answer.status, said.error_code ?? "", said.message ?? answer.statusText);
    error.headers = answer.headers;
    throw error;
  }

  async json(method, path, body) {
    return (await this.fetch(method, path, body)).json();
  }

  async userName() {
    return (await this.json("GET", "/api/2.0/preview/scim/v2/Me")).userName;
  }

  endpoint(name) {
    return this.json("GET", `/api/2.0/serving-endpoints/${encodeURIComponent(name)}`);
  }

  /** The field that takes the conversation, of the first served model: `input`, `messages`, or null for no agent. */
  async conversationField(name) {
    const document = await this.json("GET", `/api/2.0/serving-endpoints/${encodeURIComponent(name)}/openapi`);
    const [path] = Object.values(document.paths ?? {});
    const content = path?.post?.requestBody?.content?.["application/json"];
    const fields = content?.schema?.properties ?? {};
    return ["input", "messages"].find((field) => field in fields) ?? null;
  }

  ask(name, body) {
    return this.fetch("POST", `/serving-endpoints/${encodeURIComponent(name)}/invocations`, body);
  }

  /** The trace of a request, or null where it is not there yet. */
  async trace(experiment, requestId) {
    const found = await this.json("POST", "/api/3.0/mlflow/traces/search", {
      locations: [{ type: "MLFLOW_EXPERIMENT", mlflow_experiment: { experiment_id: experiment } }],
      filter: `trace.client_request_id = '${requestId.replaceAll("'", "")}'`,
      max_results: 1,
    });
    return found.traces?.[0] ?? null;
  }

  /** The spans of a trace, from the file in which its client has left them. */
  async spans(trace) {
    const folder = artifactFolder((trace.tags ?? {})["mlflow.artifactLocation"]);
    return folder ? ((await this.json("GET", `/api/2.0/fs/files${folder}/traces.json`)).spans ?? []) : [];
  }

  /** What lies in the folder of an artifact location; nothing where nobody has left anything. */
  async artifacts(location) {
    const folder = artifactFolder(location);
    if (!folder) return [];
    try {
      return (await this.json("GET", `/api/2.0/fs/directories${folder}`)).contents ?? [];
    } catch (error) {
      if (error.status === 404) return [];
      throw error;
    }
  }

  /** Keep a person's judgement of an answer; one that was kept before, with its id, is changed. */
  async assess(trace, name, value, person, id) {
    const path = `/api/3.0/mlflow/traces/${encodeURIComponent(trace.trace_id)}/assessments`;
    if (id) {
      const assessment = { assessment_id: id, trace_id: trace.trace_id, feedback: { value } };
      return this.json("PATCH", `${path}/${encodeURIComponent(id)}`, { assessment, update_mask: "feedback" });
    }
    const source = { source_type: "HUMAN", source_id: person };
    const assessment = { assessment_name: name, trace_id: trace.trace_id, source, feedback: { value } };
    return this.json("POST", path, { assessment });
  }
}

/** The path of the Files API at which MLflow's clients keep what is at an artifact location, or null. */
function artifactFolder(location) {
  const inside = (location ?? "").match(/^dbfs:\/databricks\/mlflow-tracking\/([^/]+)\/(.+)$/);
  if (!inside) return null;
  return `/${["WorkspaceInternal", "Mlflow", "Artifacts", inside[1], "Runs", ...inside[2].split("/")].map(encodeURIComponent).join("/")}`;
}
