// The same server for node.
import { readFile, readdir } from "node:fs/promises";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = { jsonrpc: "2.0", id: request.id };
  try {
    if (request.method === "initialize") answer.result = { protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: { name: "files", version: "1" } };
    else if (request.method === "tools/call") {
      const { name, arguments: { path } } = request.params;
      const text = name === "list" ? (await readdir(path)).join("\n") : await readFile(path, "utf8");
      answer.result = { content: [{ type: "text", text }] };
    } else continue;
  } catch (error) { answer.error = { code: -32000, message: error.message }; }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
