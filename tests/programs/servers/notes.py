"""A Flask application on an SQLite file, for gunicorn.sh."""

import os
import sqlite3

from flask import Flask, request, send_file

app = Flask(__name__)


def connect():
    connection = sqlite3.connect("notes.db", timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT)")
    return connection


@app.get("/")
def count():
    return {"notes": connect().execute("SELECT count(*) FROM note").fetchone()[0]}


@app.post("/")
def add():
    with connect() as connection:
        connection.execute("INSERT INTO note (text) VALUES (?)", (request.form["text"],))
    return "", 201


@app.post("/upload")
def upload():
    file = request.files["file"]
    os.makedirs("uploads", exist_ok=True)
    file.save(f"uploads/{os.path.basename(file.filename)}")
    return "", 201


@app.get("/upload/<name>")
def download(name):
    return send_file(os.path.abspath(f"uploads/{name}"))


@app.get("/fail")
def fail():
    raise RuntimeError("as a mistake in the program would")
