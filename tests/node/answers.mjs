// Reads answers with the review page's own module, whose text is on standard input; says in JSON what it has read.

import { readFileSync } from "node:fs";

const module = readFileSync(0, "utf8");
const { Answer, events, sources } = await import(`data:text/javascript,${encodeURIComponent(module)}`);
const { bytes, cuts, answers, trace, spans } = JSON.parse(process.argv[2]);

/** The events of a body that comes in two pieces. */
async function cut(at) {
  const raw = new TextEncoder().encode(bytes);
  const body = new ReadableStream({
    start(controller) {
      for (const piece of [raw.slice(0, at), raw.slice(at)]) if (piece.length) controller.enqueue(piece);
      controller.close();
    },
  });
  const found = [];
  try {
    for await (const event of events({ body })) found.push(event);
  } catch (error) {
    found.push(error.message);
  }
  return found;
}

const read = answers.map((each) => {
  const answer = new Answer();
  for (const event of each) answer.take(event);
  return { text: answer.text, tools: answer.tools, citations: answer.citations, error: answer.error };
});
const streams = await Promise.all(Array.from({ length: cuts }, (_, at) => cut(at)));
console.log(JSON.stringify({ streams, read, sources: sources(trace, spans) }));
