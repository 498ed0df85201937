//! Nothing of one message is there for the next, however a script tries to keep it.

use super::*;

/// Scripts that answer something else every time wherever state survives. Each answers the same every time here.
const STATEFUL: &[(&str, &str)] = &[
    ("a top-level let", "let n = 0; function decode(payload, metadata) { return ++n; }"),
    ("a top-level var", "var n = 0; function decode(payload, metadata) { n += 1; return n; }"),
    ("a top-level const object", "const c = { n: 0 }; function decode(payload, metadata) { return ++c.n; }"),
    ("a closure", "const decode = (() => { let n = 0; return (payload, metadata) => ++n; })();"),
    (
        "an implicit global",
        "function decode(payload, metadata) { if (typeof seen === 'undefined') seen = 0; return ++seen; }",
    ),
    (
        "globalThis",
        "function decode(payload, metadata) { globalThis.n = (globalThis.n || 0) + 1; return globalThis.n; }",
    ),
    ("sloppy this", "function decode(payload, metadata) { this.n = (this.n || 0) + 1; return this.n; }"),
    (
        "Object.prototype",
        "function decode(payload, metadata) { const had = ({}).leak; Object.prototype.leak = 1; return had === undefined; }",
    ),
    (
        "Array.prototype",
        "function decode(payload, metadata) { const l = [].map.length; Array.prototype.map = function () {}; return l; }",
    ),
    (
        "an accessor on a prototype",
        "function decode(payload, metadata) { const had = 'x' in Number.prototype; Object.defineProperty(Number.prototype, 'x', { get() { return 1 } }); return had; }",
    ),
    ("a top-level array", "const a = []; function decode(payload, metadata) { a.push(1); return a.length; }"),
    ("a top-level Map", "const m = new Map(); function decode(payload, metadata) { m.set(m.size, 1); return m.size; }"),
    (
        "a WeakMap",
        "const m = new WeakMap(), k = {}; function decode(payload, metadata) { m.set(k, (m.get(k) || 0) + 1); return m.get(k); }",
    ),
    ("a typed array", "const t = new Uint32Array(1); function decode(payload, metadata) { return ++t[0]; }"),
    (
        "an ArrayBuffer",
        "const b = new ArrayBuffer(8); function decode(payload, metadata) { const v = new DataView(b); v.setInt8(0, v.getInt8(0) + 1); return v.getInt8(0); }",
    ),
    (
        "a generator",
        "function* g() { let n = 0; for (;;) yield ++n; } const it = g(); function decode(payload, metadata) { return it.next().value; }",
    ),
    ("lastIndex", "const r = /a/g; function decode(payload, metadata) { return [r.test('aa'), r.lastIndex]; }"),
    (
        "RegExp statics",
        "function decode(payload, metadata) { const had = RegExp.$1; /(z)/.exec('z'); return had === undefined ? 0 : had; }",
    ),
    (
        "Date patched",
        "function decode(payload, metadata) { const f = new Date(0).getTime(); Date.prototype.getTime = () => 42; return f; }",
    ),
    (
        "Date replaced",
        "function decode(payload, metadata) { const f = new Date(0).toISOString(); Date = class { toISOString() { return 'x' } }; return f; }",
    ),
    (
        "Math patched",
        "function decode(payload, metadata) { const f = Math.floor(1.5); Math.floor = () => 42; return f; }",
    ),
    (
        "JSON patched",
        "function decode(payload, metadata) { const f = JSON.stringify([1]); JSON.stringify = () => 'x'; return f; }",
    ),
    (
        "a property of the function",
        "function decode(payload, metadata) { decode.n = (decode.n || 0) + 1; return decode.n; }",
    ),
    (
        "arguments.callee",
        "function decode(payload, metadata) { const f = arguments.callee; f.n = (f.n || 0) + 1; return f.n; }",
    ),
    (
        "the symbol registry",
        "function decode(payload, metadata) { const s = Symbol.for('k'); const o = Symbol.prototype; o[s] = (o[s] || 0) + 1; return o[s]; }",
    ),
    ("a class static", "class C { static n = 0; } function decode(payload, metadata) { return ++C.n; }"),
    (
        "a private static",
        "class C { static #n = 0; static next() { return ++C.#n; } } function decode(payload, metadata) { return C.next(); }",
    ),
    ("a default parameter", "const c = []; function decode(payload, metadata, k = c) { k.push(1); return k.length; }"),
    (
        "getter state",
        "const o = { n: 0, get next() { return ++this.n; } }; function decode(payload, metadata) { return o.next; }",
    ),
    (
        "a setter",
        "let kept = 0; const o = { set v(x) { kept += x; } }; function decode(payload, metadata) { o.v = 1; return kept; }",
    ),
    (
        "a proxy",
        "let n = 0; const p = new Proxy({}, { get() { return ++n; } }); function decode(payload, metadata) { return p.x; }",
    ),
    (
        "a tagged template",
        "function tag(s) { return s; } function decode(payload, metadata) { const s = tag`a`; const n = tag.seen === s; tag.seen = s; return n; }",
    ),
    (
        "a self-replacing function",
        "function decode(payload, metadata) { const old = decode; decode = () => 'second'; return 'first'; }",
    ),
    (
        "decode redefined by eval",
        "function decode(payload, metadata) { (0, eval)('function decode() { return 2 }'); return 1; }",
    ),
    (
        "a deleted built-in",
        "function decode(payload, metadata) { const t = typeof parseInt; delete globalThis.parseInt; return t; }",
    ),
    (
        "a frozen prototype",
        "function decode(payload, metadata) { const f = Object.isFrozen(Object.prototype); Object.freeze(Object.prototype); return f; }",
    ),
    (
        "a promise job",
        "let n = 0; function decode(payload, metadata) { Promise.resolve().then(() => { n += 1; }); return n; }",
    ),
    (
        "the error stack hook",
        "function decode(payload, metadata) { const f = typeof Error.prepareStackTrace; Error.prepareStackTrace = () => 1; return f; }",
    ),
    (
        "the stack limit",
        "function decode(payload, metadata) { const l = Error.stackTraceLimit; Error.stackTraceLimit = 1; return l === undefined ? 0 : l; }",
    ),
    ("console", "function decode(payload, metadata) { console.n = (console.n || 0) + 1; return console.n; }"),
    (
        "Buffer's prototype",
        "function decode(payload, metadata) { Buffer.prototype.n = (Buffer.prototype.n || 0) + 1; return Buffer.prototype.n; }",
    ),
    (
        "a lexical cache",
        "let cache; function decode(payload, metadata) { if (!cache) { cache = payload; return 'new'; } return 'old'; }",
    ),
    (
        "a memo of the payload's object",
        "const seen = new Set(); function decode(payload, metadata) { seen.add(payload.deep); return seen.size; }",
    ),
    (
        "a top level that reads the clock",
        "const at = Date.now(); let n = 0; function decode(payload, metadata) { return ++n; }",
    ),
    (
        "a thrown message",
        "let n = 0; function decode(payload, metadata) { n += 1; if (payload.bad) throw n; return n; }",
    ),
];

#[test]
fn no_script_sees_anything_of_an_earlier_message() {
    let engine = engine();
    for (what, source) in STATEFUL {
        let compiled = compile(&engine, source);
        let payload = r#"{"deep":{"a":"long enough to be an accessor of its own, at first"}}"#;
        let first = run(&engine, &compiled, payload).unwrap_or_else(|e| panic!("{what}: {e}"));
        for _ in 0..3 {
            assert_eq!(run(&engine, &compiled, payload).unwrap(), first, "{what}");
        }
        let failed = run(&engine, &compiled, r#"{"bad":true,"deep":1}"#);
        assert_eq!(run(&engine, &compiled, payload).unwrap(), first, "{what} after {failed:?}");
        // And what it answers is what a runtime that never ran anything answers.
        assert_eq!(once(&super::engine(), source, payload).unwrap(), first, "{what}");
    }
}

#[test]
fn decoders_do_not_see_each_other() {
    let engine = engine();
    let hostile = compile(
        &engine,
        "Object.prototype.leak = 'top'; leaked = 1;
         function decode(payload, metadata) { Array.prototype.push = () => 9; globalThis.x = 1; return 1; }",
    );
    let victim = compile(
        &engine,
        "function decode(payload, metadata) { return [typeof leaked, typeof x, ({}).leak === undefined, [].push(1)]; }",
    );
    let expected = r#"["undefined","undefined",true,1]"#;
    assert_eq!(run(&engine, &victim, "{}").unwrap(), expected);
    run(&engine, &hostile, "{}").unwrap();
    assert_eq!(run(&engine, &victim, "{}").unwrap(), expected);
}

#[test]
fn running_out_of_everything_leaves_nothing_behind() {
    let engine = engine();
    let source = "let n = 0; function decode(payload, metadata) {
        n += 1;
        if (payload.how === 'memory') { const a = []; for (;;) a.push(new Array(1000).fill(n)); }
        if (payload.how === 'stack') { (function f() { f(); n += 1; })(); }
        if (payload.how === 'work') for (;;) n += 1;
        if (payload.how === 'caught') { try { const a = []; for (;;) a.push('x'.repeat(100000)); } catch (e) { n = 7; } }
        return n;
    }";
    let compiled = compile(&engine, source);
    for how in ["memory", "stack", "work", "caught"] {
        let _ = run(&engine, &compiled, &format!(r#"{{"how":"{how}"}}"#));
        assert_eq!(run(&engine, &compiled, "{}").unwrap(), "1", "after {how}");
    }
}

#[test]
fn a_top_level_that_reads_the_clock_runs_for_every_message() {
    let engine = engine();
    for source in [
        "const at = Date.now(); function decode(payload, metadata) { return at; }",
        "const at = new Date(); function decode(payload, metadata) { return at.getTime(); }",
        "const at = +new (class extends Date {})(); function decode(payload, metadata) { return at; }",
        "const at = Date(); const later = Date.now(); function decode(payload, metadata) { return later; }",
    ] {
        let compiled = compile(&engine, source);
        assert!(compiled.runs_top_level_each_time(), "{source}");
        let first = run(&engine, &compiled, "{}").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert_ne!(run(&engine, &compiled, "{}").unwrap(), first, "{source}");
    }
    let fixed = compile(
        &engine,
        "const epoch = new Date(0), day = Date.UTC(2026, 1); function decode(payload, metadata) { return day; }",
    );
    assert!(!fixed.runs_top_level_each_time());
}

#[test]
fn random_numbers_differ_between_messages() {
    let engine = engine();
    let compiled = compile(&engine, "function decode(payload, metadata) { return Math.random(); }");
    assert_ne!(run(&engine, &compiled, "{}").unwrap(), run(&engine, &compiled, "{}").unwrap());
    let compiled = compile(&engine, "const salt = Math.random(); function decode(payload, metadata) { return salt; }");
    assert_ne!(run(&engine, &compiled, "{}").unwrap(), run(&engine, &compiled, "{}").unwrap());
}

#[test]
fn a_script_finds_the_language_and_nothing_of_the_host() {
    let engine = engine();
    let names = "['require','process','module','exports','fetch','setTimeout','setInterval','setImmediate','queueMicrotask',
        'performance','SharedArrayBuffer','Atomics','WebAssembly','std','os','scriptArgs','print','gc','navigator','Worker',
        'importScripts','Deno','Bun','window','document','parentPort','workerData','innerPayload']";
    let found = value(&engine, &format!("{names}.filter((n) => n in globalThis)")).unwrap();
    assert_eq!(found, "[]");
    let own = value(&engine, "Object.getOwnPropertyNames(globalThis).sort().join(' ')").unwrap();
    assert_eq!(
        own.trim_matches('"'),
        "AggregateError Array ArrayBuffer AsyncDisposableStack BigInt BigInt64Array BigUint64Array Boolean DOMException DataView Date DisposableStack \
         Error EvalError Float16Array Float32Array Float64Array Function Infinity Int16Array Int32Array Int8Array InternalError \
         Iterator JSON Map Math NaN Number Object Promise Proxy RangeError ReferenceError Reflect RegExp Set String \
         SuppressedError Symbol SyntaxError TypeError URIError Uint16Array Uint32Array Uint8Array Uint8ClampedArray WeakMap WeakSet atob btoa console \
         decode decodeURI decodeURIComponent encodeURI encodeURIComponent escape eval global globalThis isFinite isNaN \
         parseFloat parseInt undefined unescape"
    );
}

#[test]
fn importing_a_module_fails() {
    let engine = engine();
    assert!(once(&engine, "import fs from 'fs'; function decode(payload, metadata) {}", "{}").is_err());
    // A dynamic import gives a promise, which is no result.
    assert_eq!(kind_of(value(&engine, "import('fs')")), DecodeErrorKind::Result);
}
