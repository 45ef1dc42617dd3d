// An HTTP server that keeps connections, with worker threads and files, for node.sh: node server.js PORT FOLDER

const crypto = require('crypto');
const dns = require('dns');
const fs = require('fs');
const http = require('http');
const path = require('path');
const zlib = require('zlib');
const { Worker, isMainThread, parentPort } = require('worker_threads');

function sum(n) {
    let total = 0;
    for (let i = 0; i < n; i++) total += i;
    return total;
}

async function store(request, name) {
    await new Promise((done, failed) => {
        request.pipe(fs.createWriteStream(name + '.part')).on('finish', done).on('error', failed);
    });
    await fs.promises.rename(name + '.part', name);
}

function main(port, folder) {
    const open = () => fs.createWriteStream(path.join(folder, 'access.log'), { flags: 'a' });
    let log = open();

    async function file(request, answer) {
        const name = path.join(folder, 'store', path.basename(request.url));
        if (request.method === 'PUT') {
            await store(request, name);
            answer.writeHead(201).end();
        } else if (request.method === 'DELETE') {
            await fs.promises.unlink(name);
            answer.end();
        } else {
            await fs.promises.stat(name);
            fs.createReadStream(name).pipe(answer);
        }
    }

    const pages = {
        '/': (answer) => answer.end('hello\n'),
        '/list': async (answer) => answer.end((await fs.promises.readdir(path.join(folder, 'store'))).join('\n')),
        '/work': (answer) => {
            const worker = new Worker(__filename);
            worker.once('message', (total) => answer.end(`${total}\n`));
            worker.postMessage(1e6);
        },
        '/zip': (answer) => zlib.gzip(Buffer.alloc(1e6, 'x'), (_, bytes) => answer.end(bytes)),
        '/hash': (answer) => crypto.pbkdf2('a', 'b', 20000, 64, 'sha512', (_, key) => answer.end(key)),
        '/name': (answer) => dns.lookup('localhost', (_, address) => answer.end(address)),
        '/up': (answer) => http.get('http://127.0.0.1:9/').on('error', () => answer.writeHead(502).end()),
    };

    const server = http.createServer(async (request, answer) => {
        log.write(`${request.method} ${request.url}\n`);
        try {
            if (request.url.startsWith('/file/')) await file(request, answer);
            else if (pages[request.url]) await pages[request.url](answer);
            else answer.writeHead(404).end();
        } catch (error) {
            answer.writeHead(error.code === 'ENOENT' ? 404 : 500).end();
        }
    });
    server.keepAliveTimeout = 1000;
    server.listen(port, '127.0.0.1', () => fs.writeFileSync(path.join(folder, 'pid'), `${process.pid}\n`));
    process.on('SIGHUP', () => {
        log.end();
        log = open();
    });
    for (const signal of ['SIGTERM', 'SIGINT']) {
        process.on(signal, () => {
            server.close(() => process.exit(0));
            server.closeAllConnections();
        });
    }
}

if (isMainThread) main(Number(process.argv[2]), process.argv[3]);
else parentPort.once('message', (n) => parentPort.postMessage(sum(n)));
