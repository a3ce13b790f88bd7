// What `order.py` starts for groupmq: `node groupmq.mjs work` or `node groupmq.mjs publish`.
// A publisher reads a line a job from stdin ({"lane", "user", "number", "seconds"}), adds each
// lane's jobs one after the other, and prints a line for each that Redis has.
import { openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(process.env.BENCH_PACKAGES + '/');
const { Queue, Worker } = require('groupmq');
const Redis = require('ioredis');

const redis = new Redis(process.env.BENCH_REDIS, { maxRetriesPerRequest: null });
const queue = new Queue({ redis, namespace: 'turns', keepCompleted: 0 });
const now = () => Number(process.hrtime.bigint()) / 1e9;

if (process.argv[2] === 'work') {
  const ledger = openSync(`${process.env.BENCH_LEDGER}/${process.pid}`, 'a');
  const worker = new Worker({
    queue,
    concurrency: Number(process.env.BENCH_THREADS),
    handler: async (job) => {
      const { user, number, seconds } = job.data;
      const began = now();
      if (seconds) await sleep(1000 * seconds);
      writeSync(ledger, `${user} ${number} ${began} ${now()}\n`);
    },
  });
  worker.on('error', (error) => console.error(error));
  worker.run();
} else {
  const lanes = new Map();
  for await (const line of createInterface({ input: process.stdin })) {
    const { lane, ...data } = JSON.parse(line);
    const before = lanes.get(lane) ?? Promise.resolve();
    lanes.set(lane, before.then(async () => {
      await queue.add({ groupId: data.user, data, jobId: `${data.user}-${data.number}` });
      writeSync(1, `${data.number}\n`);
    }));
  }
}
