"""Notes in an SQLite file: GET /, GET /notes/N, POST /notes; an upload is kept in a temporary file first."""

import sqlite3

import flask

app = flask.Flask(__name__)


def database() -> sqlite3.Connection:
    connection = sqlite3.connect("notes.db")
    connection.execute("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT)")
    return connection


@app.get("/")
def index() -> str:
    with database() as connection:
        return "\n".join(text[:80] for (text,) in connection.execute("SELECT text FROM note ORDER BY id DESC LIMIT 20"))


@app.get("/notes/<int:number>")
def one(number: int) -> str:
    with database() as connection:
        row = connection.execute("SELECT text FROM note WHERE id = ?", (number,)).fetchone()
    return row[0] if row else flask.abort(404)


@app.post("/notes")
def add() -> tuple[str, int]:
    file = flask.request.files.get("file")
    text = file.read().decode() if file else flask.request.form["text"]
    with database() as connection:
        return str(connection.execute("INSERT INTO note (text) VALUES (?)", (text,)).lastrowid), 201
