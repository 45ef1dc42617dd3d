// Answers GET / from a file and keeps what is posted; SIGHUP reads the file again, SIGTERM ends in order.
const fs = require('fs');
const http = require('http');
let page = fs.readFileSync('page.txt');
const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    const made = fs.createWriteStream('posted.tmp');
    request.pipe(made);
    made.on('finish', () => fs.rename('posted.tmp', 'posted', () => response.writeHead(201).end('kept\n')));
  } else if (request.url === '/') {
    response.end(page);
  } else {
    response.writeHead(404).end('nothing here\n');
  }
});
process.on('SIGHUP', () => { page = fs.readFileSync('page.txt'); });
process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeAllConnections(); });
server.on('error', error => { console.error(error.message); process.exit(1); });
server.listen(Number(process.env.PORT), '127.0.0.1');
