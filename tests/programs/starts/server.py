"""A server of the Model Context Protocol over standard input and output, which reads the folder in which it is started."""

import json
import sys
from pathlib import Path

ROOT = Path(".").resolve()


def call(name: str, arguments: dict[str, str]) -> str:
    path = (ROOT / arguments.get("path", ".")).resolve()
    if name == "list":
        return "\n".join(sorted(f"{one.name} {one.stat().st_size}" for one in path.iterdir()))
    if name == "search":
        files = [one for one in sorted(path.rglob("*")) if one.is_file()]
        return "\n".join(str(one.relative_to(ROOT)) for one in files if arguments["text"] in one.read_text(errors="replace"))
    return path.read_text()


for line in sys.stdin:
    request = json.loads(line)
    answer: dict[str, object] = {"jsonrpc": "2.0", "id": request.get("id")}
    try:
        match request["method"]:
            case "initialize":
                about = {"name": "files", "version": "1"}
                answer["result"] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about}
            case "tools/list":
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("list", "read", "search")]
                answer["result"] = {"tools": tools}
            case "tools/call":
                text = call(request["params"]["name"], request["params"]["arguments"])
                answer["result"] = {"content": [{"type": "text", "text": text}]}
            case _:
                continue
    except OSError as error:
        answer["error"] = {"code": -32000, "message": str(error)}
    print(json.dumps(answer), flush=True)
