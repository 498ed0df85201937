// What every decoder finds besides the language itself. Written for this project; runs once per worker, before any script.
(() => {
  const hide = (name, value) => Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  const nothing = () => undefined;
  const console = {};
  for (const name of ['log', 'info', 'warn', 'error', 'debug', 'trace', 'dir', 'table', 'assert', 'group', 'groupEnd', 'time', 'timeEnd', 'count'])
    console[name] = nothing;
  hide('console', console);
  hide('global', globalThis);
  for (const name of ['SharedArrayBuffer', 'Atomics', 'performance', 'queueMicrotask', 'navigator', 'WeakRef', 'FinalizationRegistry', 'gc', 'print'])
    delete globalThis[name];
})();
