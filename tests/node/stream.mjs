// Speaks to the endpoint of argument 1 as the OpenAI client of Node does; says in one line of JSON what it has seen.
// Argument 2 is a file that the agent waits for in the middle of its stream.

import { writeFileSync } from "node:fs";

import OpenAI from "openai";

const [endpoint, gate] = process.argv.slice(2);
const client = new OpenAI({
  baseURL: `${process.env.DATABRICKS_HOST}/serving-endpoints`,
  apiKey: process.env.DATABRICKS_TOKEN,
  maxRetries: 0,
});

const stream = await client.responses.create({ model: endpoint, input: `one ${gate} two`, stream: true });
const deltas = [];
let done = "";
for await (const event of stream) {
  if (event.type === "response.output_text.delta") {
    deltas.push(event.delta);
    // The agent goes on only once its first words have come this far.
    if (deltas.length === 2) writeFileSync(gate, "");
  }
  if (event.type === "response.output_item.done") done = event.item.content[0].text;
}

const whole = await client.responses.create({ model: endpoint, input: "hello", custom_inputs: { session: "s1" } });
const broken = await client.responses.create({ model: endpoint, input: "one break", stream: true });
let error = null;
for await (const event of broken) error = event.databricks_output?.error ?? error;

const missing = await client.responses.create({ model: "no-such-endpoint", input: "hello" }).catch((reason) => reason);
const said = { deltas, done, text: whole.output[0].content[0].text, outputs: whole.custom_outputs, error };
console.log(JSON.stringify({ ...said, missing: [missing.constructor.name, missing.status] }));
