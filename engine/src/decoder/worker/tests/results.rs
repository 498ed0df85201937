//! Results as text. The expected texts are what Node 20 makes of the same expressions by `JSON.stringify(structuredClone(x))`.

use super::*;

#[test]
fn results_are_what_structured_clone_and_stringify_make_of_them_in_node() {
    let engine = engine();
    for (expression, expected) in [
        ("({ z: 1, a: [1, null, 'x'], 1: 2 })", r#"{"1":2,"z":1,"a":[1,null,"x"]}"#),
        ("Object.assign(Object.create(null), { a: 1 })", r#"{"a":1}"#),
        ("new (class A { x = 1; get y() { return 2 } })", r#"{"x":1}"#),
        ("({ [Symbol('x')]: 1, b: 2 })", r#"{"b":2}"#),
        ("Math", "{}"),
        ("Object.assign(new Error('x'), { a: 1 })", "{}"),
        ("({ e: new TypeError('q') })", r#"{"e":{}}"#),
        ("/x/g", "{}"),
        ("[new Number(5), new String('a'), new Boolean(false)]", r#"[5,"a",false]"#),
        ("new ArrayBuffer(3)", "{}"),
        ("new DataView(new ArrayBuffer(3))", "{}"),
        ("new Uint8Array([1, 2])", r#"{"0":1,"1":2}"#),
        ("new Float64Array([1.5, NaN])", r#"{"0":1.5,"1":null}"#),
        ("Buffer.from('0102', 'hex')", r#"{"0":1,"1":2}"#),
        ("Object.assign([1], { f: 2 })", "[1]"),
        ("[1, , 3]", "[1,null,3]"),
        ("[undefined, null]", "[null,null]"),
        ("({ a: undefined, b: { c: undefined } })", r#"{"b":{}}"#),
        ("new (class { toJSON() { return 1 } x = 2 })", r#"{"x":2}"#),
        ("({ toJSON: 5 })", r#"{"toJSON":5}"#),
        ("({ get a() { return 3 } })", r#"{"a":3}"#),
        ("new Date(0)", r#""1970-01-01T00:00:00.000Z""#),
        ("Object.assign(new Date(0), { a: 1 })", r#""1970-01-01T00:00:00.000Z""#),
        ("new Date(NaN)", "null"),
        ("new Map([[1, 2]])", "{}"),
        ("new Set([1])", "{}"),
        ("JSON.parse('{\"__proto__\":{\"a\":1},\"b\":2}')", r#"{"__proto__":{"a":1},"b":2}"#),
        ("/(?<y>a)/.exec('a')", r#"["a","a"]"#),
        ("-0", "0"),
        ("NaN", "null"),
        ("[Infinity, -Infinity]", "[null,null]"),
        ("0.1 + 0.2", "0.30000000000000004"),
        ("1e21", "1e+21"),
        ("12345678901234567890", "12345678901234567000"),
        ("5e-324", "5e-324"),
        ("'\\ud800x'", r#""\ud800x""#),
        ("({ 'k\\udc00': '\\ud83d\\ude00' })", r#"{"k\udc00":"😀"}"#),
        ("'\\u2028\\u007f\\u0001\"\\\\/'", "\"\u{2028}\u{7f}\\u0001\\\"\\\\/\""),
        ("'just text'", r#""just text""#),
        ("'x' + 'y'.repeat(3)", r#""xyyy""#),
        ("null", "null"),
        ("true", "true"),
        ("undefined", "undefined"),
        ("(() => { const a = { x: 1 }; return [a, a]; })()", r#"[{"x":1},{"x":1}]"#),
        // The reference's own example of numbers, as its receivers got it.
        (
            "({ a: 1.0, b: 0.1 + 0.2, c: NaN, d: undefined, e: new Date(0), f: -0, g: 1e21, h: 'æ ', i: [undefined, null] })",
            r#"{"a":1,"b":0.30000000000000004,"c":null,"e":"1970-01-01T00:00:00.000Z","f":0,"g":1e+21,"h":"æ ","i":[null,null]}"#,
        ),
    ] {
        assert_eq!(value(&engine, expression).as_deref(), Ok(expected), "{expression}");
    }
}

#[test]
fn what_cannot_be_sent_is_a_result_error() {
    let engine = engine();
    for expression in [
        "arguments",
        "() => 1",
        "({ f() {} })",
        "({ toJSON() { return 1 } })",
        "[Symbol('x')]",
        "[1].values()",
        "new Proxy({ a: 1 }, {})",
        "new Proxy([1], {})",
        "Object(1n)",
        "1n",
        "({ deep: [10n ** 30n] })",
        "new BigInt64Array(1)",
        "new WeakMap()",
        "(function* () {})()",
        "Promise.resolve(1)",
        "(async () => 1)()",
        "(() => { const a = {}; a.a = a; return a; })()",
        "(() => { let a = []; for (let i = 0; i < 200; i++) a = [a]; return a; })()",
        "'x'.repeat(300 * 1024)",
        "new Array(1e6)",
        "({ text: '\\u0001'.repeat(100000) })",
    ] {
        assert_eq!(kind_of(value(&engine, expression)), DecodeErrorKind::Result, "{expression}");
    }
}

#[test]
fn a_script_cannot_change_how_its_result_is_written() {
    let engine = engine();
    let source = "function decode(payload, metadata) {
        JSON.stringify = () => 'patched'; Date.prototype.toISOString = () => 'patched'; Date.prototype.getTime = () => 0;
        Number.prototype.valueOf = () => 0; Array.prototype.join = () => 'patched';
        Object.defineProperty(Object.prototype, 'toJSON', { value: () => 'patched' });
        return { at: new Date(5), n: new Number(3), list: [1, 2] };
    }";
    let expected = r#"{"at":"1970-01-01T00:00:00.005Z","n":3,"list":[1,2]}"#;
    assert_eq!(once(&engine, source, "{}").unwrap(), expected);
}

#[test]
fn a_getter_that_throws_or_never_ends_is_the_scripts_error() {
    let engine = engine();
    assert_eq!(kind_of(value(&engine, "({ get a() { throw new Error('no') } })")), DecodeErrorKind::Thrown);
    assert_eq!(kind_of(value(&engine, "({ get a() { for (;;); } })")), DecodeErrorKind::Timeout);
}

#[test]
fn whatever_is_thrown_becomes_a_text_with_its_line() {
    let engine = engine();
    for (body, said) in [
        ("\n\nthrow new TypeError('bad frame')", "TypeError: bad frame (line 3)"),
        ("\nnothing.here", "ReferenceError: nothing is not defined (line 2)"),
        ("throw 'a text'", "the script threw a text"),
        ("throw null", "the script threw null"),
        ("throw undefined", "the script threw undefined"),
        ("throw { name: 'Odd', message: 'thing' }", "Odd: thing"),
        ("throw { a: 1 }", "the script threw [object Object]"),
        ("throw Symbol('s')", "the script threw a symbol"),
        ("throw 5n", "the script threw 5"),
        ("throw { toString() { throw 1 } }", "the script threw an empty value"),
        ("throw Object.assign(new Error(''), { name: '' })", "the script threw an empty value"),
    ] {
        let source = format!("function decode(payload, metadata) {{ {body} }}");
        let error = once(&engine, &source, "{}").unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Thrown, "{body}");
        assert!(error.message.starts_with(said), "{body}: {}", error.message);
    }
    let long = value(&engine, "(() => { throw new Error('æ'.repeat(5000)) })()").unwrap_err();
    assert!(long.message.len() <= 1_024);
}
