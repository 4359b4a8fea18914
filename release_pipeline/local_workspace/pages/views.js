// What each of the workspace's pages shows, read through its API as every client reads it.

import { element } from "./elements.js";

const ROWS = 50;
const UC = "/api/2.0/mlflow/unity-catalog";
const part = encodeURIComponent;

/** The page of an address, as its parts: `title`, and `show(workspace)`, which resolves to the page's elements. */
export function viewOf(path) {
  const [area, kind, ...rest] = path;
  if (!area) return { title: "Local workspace", show: home };
  if (area === "ml" && kind === "endpoints" && rest.length === 1) {
    return { title: `Endpoint ${rest[0]}`, show: (workspace) => endpoint(workspace, rest[0]) };
  }
  if (area === "ml" && kind === "experiments") {
    const [id, what, run] = rest;
    if (what === "runs" && run) return { title: `Run ${run}`, show: (workspace) => runPage(workspace, run) };
    return { title: `Experiment ${id}`, show: (workspace) => experiment(workspace, id) };
  }
  if (area === "explore" && rest[0] === "models" && rest.length > 3) {
    const name = rest.slice(1, 4).join(".");
    const [, version] = rest.slice(4);
    return { title: `Model ${name}`, show: (workspace) => model(workspace, name, version) };
  }
  return { title: `Table ${rest.join(".")}`, show: (workspace) => tablePage(workspace, rest.join(".")) };
}

async function home(workspace) {
  const [endpoints, models, experiments] = await Promise.all([
    workspace.json("GET", "/api/2.0/serving-endpoints"),
    workspace.json("GET", `${UC}/registered-models/search`),
    workspace.json("POST", "/api/2.0/mlflow/experiments/search", { max_results: ROWS }),
  ]);
  const named = (list) => list ?? [];
  return [
    ...section("Endpoints", table(["Name", "State", "Serves"], named(endpoints.endpoints).map((each) => [
      link(`/ml/endpoints/${part(each.name)}`, each.name),
      stateOf(each),
      named(each.config?.served_entities).map((entity) => `version ${entity.entity_version}`).join(", "),
    ]))),
    ...section("Models", table(["Name"], named(models.registered_models).map((each) => [link(modelPath(each.name), each.name)]))),
    ...section("Experiments", table(["Name"], named(experiments.experiments).map((each) => [
      link(`/ml/experiments/${part(each.experiment_id)}`, each.name),
    ]))),
  ];
}

async function endpoint(workspace, name) {
  const path = `/api/2.0/serving-endpoints/${part(name)}`;
  const found = await workspace.json("GET", path);
  const config = found.config ?? {};
  const shares = new Map((config.traffic_config?.routes ?? []).map((route) => [route.served_entity_name ?? route.served_model_name, route.traffic_percentage]));
  const active = config.served_entities ?? [];
  const names = new Set(active.map((entity) => entity.name));
  // One that is being deployed, or could not be, is what people look for here.
  const pending = (found.pending_config?.served_entities ?? []).filter((entity) => !names.has(entity.name));
  const entities = [...active, ...pending];
  const payload = found.ai_gateway?.inference_table_config;
  const logs = entities.flatMap((entity) =>
    [["build-logs", "Build log"], ["logs", "Log"]].map(([kind, words]) =>
      later(`${words} of ${entity.name}`, async () => (await workspace.json("GET", `${path}/served-models/${part(entity.name)}/${kind}`)).logs || "It is empty."),
    ),
  );
  return [
    facts({
      State: stateOf(found),
      Configuration: String(config.config_version ?? ""),
      Creator: found.creator,
      Review: link(`/review/${part(name)}`, "Chat with it and say what you think"),
      "Inference table": payload?.enabled ? link(tablePath(payloadTable(payload)), payloadTable(payload)) : "off",
      Tags: tagText(found.tags),
    }),
    ...section("Served entities", table(["Traffic", "Version", "Name", "State", "Size"], entities.map((entity) => [
      meter(shares.get(entity.name) ?? 0),
      link(modelPath(entity.entity_name, entity.entity_version), `${entity.entity_name} ${entity.entity_version}`),
      entity.name,
      [entity.state?.deployment, entity.state?.deployment_state_message].filter(Boolean).join(": "),
      [entity.workload_size, entity.scale_to_zero_enabled ? "scales to zero" : ""].filter(Boolean).join(", "),
    ]))),
    ...section("Logs", ...logs),
    later("Metrics", async () => (await workspace.fetch("GET", `${path}/metrics`)).text()),
  ];
}

async function model(workspace, name, version) {
  const [{ registered_model: found }, { model_versions: versions }] = await Promise.all([
    workspace.json("GET", `${UC}/registered-models/get?name=${part(name)}`),
    workspace.json("GET", `${UC}/model-versions/search?filter=${part(`name='${name.replaceAll("'", "")}'`)}`),
  ]);
  const aliases = new Map();
  for (const { alias, version: of } of found.aliases ?? []) aliases.set(String(of), [...(aliases.get(String(of)) ?? []), alias]);
  const all = (versions ?? []).sort((one, other) => other.version - one.version);
  const shown = all.filter((each, place) => place < ROWS || each.version === version);
  return section(version ? `Version ${version} and the others` : "Versions", table(["Version", "Aliases", "State", "Run", "Tags"], shown.map((each) => [
    each.version === version ? element("strong", {}, each.version) : each.version,
    (aliases.get(each.version) ?? []).join(", "),
    each.status,
    each.run_id ? link(`/ml/experiments/0/runs/${part(each.run_id)}`, each.run_id.slice(0, 8)) : "", // a run's id is enough
    tagText(each.tags),
  ])));
}

async function experiment(workspace, id) {
  const [{ runs }, { traces }] = await Promise.all([
    workspace.json("POST", "/api/2.0/mlflow/runs/search", { experiment_ids: [id], max_results: ROWS }),
    workspace.json("POST", "/api/3.0/mlflow/traces/search", {
      locations: [{ type: "MLFLOW_EXPERIMENT", mlflow_experiment: { experiment_id: id } }],
      max_results: ROWS,
    }),
  ]);
  return [
    ...section("Runs", table(["Run", "Started", "State"], (runs ?? []).map(({ info }) => [
      link(`/ml/experiments/${part(id)}/runs/${part(info.run_id)}`, info.run_name || info.run_id),
      when(Number(info.start_time)),
      info.status,
    ]))),
    ...section("Newest traces", table(["Time", "State", "Took", "Asked", "Answered", "Assessments"], (traces ?? []).map((trace) => [
      when(Date.parse(trace.request_time)),
      trace.state,
      trace.execution_duration ?? "",
      trace.request_preview ?? "",
      trace.response_preview ?? "",
      (trace.assessments ?? []).map((each) => `${each.assessment_name}: ${JSON.stringify(each.feedback?.value ?? each.expectation?.value)}`).join(", "),
    ]))),
  ];
}

async function runPage(workspace, id) {
  const { run } = await workspace.json("GET", `/api/2.0/mlflow/runs/get?run_id=${part(id)}`);
  const files = await workspace.artifacts(run.info.artifact_uri);
  const pairs = (list) => (list ?? []).map(({ key, value }) => [key, String(value)]);
  return [
    facts({
      Name: run.info.run_name,
      State: run.info.status,
      Started: when(Number(run.info.start_time)),
      Experiment: link(`/ml/experiments/${part(run.info.experiment_id)}`, run.info.experiment_id),
    }),
    ...section("Metrics", table(["Name", "Value"], pairs(run.data.metrics))),
    ...section("Parameters", table(["Name", "Value"], pairs(run.data.params))),
    ...section("Tags", table(["Name", "Value"], pairs(run.data.tags))),
    ...section("Files", table(["Name", "Bytes"], files.map((each) => [each.name, String(each.file_size ?? "")]))),
  ];
}

async function tablePage(workspace, name) {
  const found = await workspace.json("GET", `/api/2.1/unity-catalog/tables/${part(name)}`);
  const columns = (found.columns ?? []).map((each) => each.name);
  const quoted = name.split(".").map((each) => `\`${each.replaceAll("`", "``")}\``).join(".");
  const newest = ["request_time", "timestamp_ms", "at"].find((each) => columns.includes(each));
  const said = await workspace.json("POST", "/api/2.0/sql/statements", {
    warehouse_id: "local",
    wait_timeout: "30s",
    statement: `SELECT * FROM ${quoted}${newest ? ` ORDER BY ${newest} DESC` : ""} LIMIT ${ROWS}`,
  });
  const rows = said.result?.data_array ?? [];
  return [
    ...section("Columns", table(["Name", "Type"], (found.columns ?? []).map((each) => [each.name, each.type_text]))),
    ...section(newest ? `The newest rows, ${ROWS} at most` : `Rows, ${ROWS} at most`, said.status.state === "SUCCEEDED" ? table(columns, rows) : (said.status.error?.message ?? "The rows have not come in 30 s; refresh.")),
  ];
}

function section(heading, ...parts) {
  return [element("h2", {}, heading), ...parts];
}

function table(headings, rows) {
  if (!rows.length) return element("p", { class: "status" }, "There are none.");
  const head = element("tr", {}, ...headings.map((each) => element("th", { scope: "col" }, each)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell ?? ""))));
  return element("div", { class: "wide", tabindex: "0" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function facts(values) {
  const rows = Object.entries(values).filter(([, value]) => value);
  const lines = rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)));
  return element("table", {}, element("tbody", {}, ...lines));
}

/** Text that is read when somebody opens it. */
function later(heading, read) {
  const text = element("pre", { tabindex: "0" }, "…");
  const made = element("details", {}, element("summary", {}, heading), text);
  made.addEventListener("toggle", async () => {
    if (!made.open) return;
    try {
      text.textContent = await read();
    } catch (error) {
      text.textContent = error.message;
    }
  });
  return made;
}

function meter(percent) {
  return element("span", {}, element("meter", { min: "0", max: "100", value: String(percent) }), `${percent} %`);
}

const link = (href, text) => element("a", { href }, text);
const modelPath = (name, version) => `/explore/data/models/${name.split(".").map(part).join("/")}${version ? `/version/${part(version)}` : ""}`;
const tablePath = (name) => `/explore/data/${name.split(".").map(part).join("/")}`;
const payloadTable = (config) => `${config.catalog_name}.${config.schema_name}.${config.table_name_prefix}_payload`;
const tagText = (tags) => (tags ?? []).map(({ key, value }) => `${key}: ${value}`).join(", ");
const when = (milliseconds) => (milliseconds ? new Date(milliseconds).toLocaleString() : "");
const stateOf = (found) => [found.state?.ready, found.state?.config_update].filter((each) => each && each !== "NOT_UPDATING").join(", ");
