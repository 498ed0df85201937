//! Every way to use too much ends as an error of that message, and the next message is fine.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn loops_allocations_and_recursion_end_as_errors() {
    let engine = engine();
    for (body, kind) in [
        ("for (;;);", DecodeErrorKind::Timeout),
        ("while (true) { try { for (;;); } catch (e) {} finally { continue; } }", DecodeErrorKind::Timeout),
        ("(function f() { f(); })()", DecodeErrorKind::Memory),
        ("const a = []; for (;;) a.push({}, [], 'x' + a.length);", DecodeErrorKind::Memory),
        ("let s = 'x'; for (;;) s += s;", DecodeErrorKind::Memory),
        ("return 'x'.repeat(10 * 1024 * 1024);", DecodeErrorKind::Memory),
        ("return new Uint8Array(100 * 1024 * 1024);", DecodeErrorKind::Memory),
        ("return /^(a+)+$/.test('a'.repeat(40) + 'b');", DecodeErrorKind::Timeout),
        ("Array.prototype.reverse.call({ length: 2 ** 40 });", DecodeErrorKind::Timeout),
        ("Array.prototype.join.call({ length: 2 ** 32 });", DecodeErrorKind::Timeout),
        ("[].length = 4e9; new Array(4e9).sort();", DecodeErrorKind::Timeout),
        ("String.raw({ raw: { length: 2 ** 40 } });", DecodeErrorKind::Timeout),
        ("const t = 'a'.repeat(2e6), n = 'a'.repeat(1e6) + 'b'; t.indexOf(n);", DecodeErrorKind::Timeout),
        ("for (;;) Array.prototype.slice.call({ length: 60000 });", DecodeErrorKind::Timeout),
        ("Array.from({ length: 1e9 });", DecodeErrorKind::Timeout),
        ("[...(function* () { for (;;) yield 1; })()];", DecodeErrorKind::Timeout),
    ] {
        let compiled =
            compile(&engine, &format!("function decode(payload, metadata) {{ if (payload.ok) return 1; {body} }}"));
        let started_at = Instant::now();
        let result = run(&engine, &compiled, "{}");
        let took = started_at.elapsed();
        let got = kind_of(result);
        let is_limit = matches!(got, DecodeErrorKind::Timeout | DecodeErrorKind::Memory);
        assert!(got == kind || is_limit, "{body}: {got:?} instead of {kind:?}");
        // No timing promise: only that no native loop ran for its whole course.
        assert!(took < Duration::from_secs(5), "{body}: {took:?}");
        assert_eq!(run(&engine, &compiled, r#"{"ok":1}"#).unwrap(), "1", "{body}");
    }
}

#[test]
fn a_top_level_that_never_ends_is_an_error_of_the_script() {
    let engine = engine();
    let error = engine.compile("for (;;);", None).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Timeout);
    let error = engine.compile("const a = []; for (;;) a.push([1]);", None).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Memory);
}

#[test]
fn a_source_that_does_not_parse_says_where() {
    let engine = engine();
    let error = engine.compile("function decode(payload, metadata) {\n  return {;\n}", None).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Script);
    assert!(error.message.starts_with("SyntaxError") && error.message.contains("line 2"), "{}", error.message);
    let error = engine.compile("const x = 1;", None).unwrap_err();
    assert!(error.kind == DecodeErrorKind::Script && error.message.contains("no entry function"), "{error:?}");
    let error = engine.compile("\nthrow new Error('top')", None).unwrap_err();
    assert!(error.kind == DecodeErrorKind::Script && error.message.contains("top (line 2)"), "{error:?}");
    let error = engine.compile(&" ".repeat(600 << 10), None).unwrap_err();
    assert!(error.kind == DecodeErrorKind::Script && error.message.contains("512 KiB"), "{error:?}");
}

#[test]
fn a_nul_in_the_source_is_either_run_or_refused_clearly() {
    let engine = engine();
    let source = "/* a \0 b */ const s = 'x\0y'; function decode(payload, metadata) { return s.length; }";
    assert_eq!(once(&engine, source, "{}").unwrap(), "3");
    let error = engine.compile("const a = 1; \0 function decode(payload, metadata) {}", None).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Script);
}

#[test]
fn guarded_built_ins_behave_as_before() {
    let engine = engine();
    for (expression, expected) in [
        ("[3, 1, 2].sort().join('-')", r#""1-2-3""#),
        ("Array.prototype.slice.call('abc', 1)", r#"["b","c"]"#),
        ("(function () { return Array.prototype.slice.call(arguments) })(1, 2)", "[1,2]"),
        ("[1].concat([2], 3)", "[1,2,3]"),
        ("'a,b'.split(',').reverse()", r#"["b","a"]"#),
        ("['abc'.indexOf('c'), 'abc'.includes('d'), 'aba'.lastIndexOf('a')]", "[2,false,2]"),
        ("'a1b'.split(/\\d/)", r#"["a","b"]"#),
        ("String.raw`a\\n${1}`", r#""a\\n1""#),
        (
            "[Array.prototype.slice.name, Array.prototype.slice.length, Array.prototype.concat.length]",
            r#"["slice",2,1]"#,
        ),
        ("[Date.name, Date.length, Date.now.name, Math.random.name]", r#"["Date",7,"now","random"]"#),
        (
            "[new Date(5) instanceof Date, typeof Date(), new Date(5).constructor === Date, new Date(2026, 0).getMonth()]",
            r#"[true,"string",true,0]"#,
        ),
        ("(() => { class D extends Date { d() { return this.getTime() } } return new D(7).d() })()", "7"),
        ("[Date.UTC(1970, 0), Date.parse('1970-01-01T00:00:01Z'), new Date('x').getTime()]", "[0,1000,null]"),
        ("[Object.keys(Date), Object.getOwnPropertyDescriptor(globalThis, 'Date').enumerable]", "[[],false]"),
        ("new Date(1700000000000).getTimezoneOffset()", "0"),
    ] {
        assert_eq!(value(&engine, expression).as_deref(), Ok(expected), "{expression}");
    }
    assert_eq!(kind_of(value(&engine, "Array.prototype.slice.call(null)")), DecodeErrorKind::Thrown);
}
