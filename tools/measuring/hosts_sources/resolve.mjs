// resolve.mjs COUNT URL...: node's http with addresses from dns.resolve (c-ares), a connection for each request; http:// alone.
import { Resolver } from 'node:dns';
import http from 'node:http';

const [count, ...urls] = process.argv.slice(2);
function lookup(name, options, done) {
  const resolver = new Resolver();
  resolver.resolve4(name, (error, found) => {
    if (!error) return options.all ? done(null, found.map((address) => ({ address, family: 4 }))) : done(null, found[0], 4);
    resolver.resolve6(name, (second, six) => (second ? done(error) : options.all
      ? done(null, six.map((address) => ({ address, family: 6 }))) : done(null, six[0], 6)));
  });
}
function get(url) {
  return new Promise((resolve, reject) => {
    const asking = http.get(url, { lookup, agent: false, timeout: 20000 }, (answer) => {
      let body = '';
      answer.on('data', (part) => { body += part; });
      answer.on('end', () => resolve(body.trim()));
    });
    asking.on('timeout', () => asking.destroy(new Error('timeout')));
    asking.on('error', reject);
  });
}
for (let i = 0; i < count; i++) {
  try {
    console.log('got', await get(urls[i % urls.length]));
  } catch (error) {
    console.log('failed', error.code ?? error.message);
  }
}
