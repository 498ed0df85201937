//! Each dialect's way of being called, and how it is recognised.

use super::*;

const EVENT: &str = r#"{"fPort":85,"data":"AQID/w==","fCnt":7}"#;

#[test]
fn every_dialect_gets_its_arguments() {
    let engine = engine();
    for (source, dialect, expected) in [
        (
            "function decode(payload, metadata) { return [payload.fCnt, atob(payload.data).length, metadata.name]; }",
            Dialect::Os2iot,
            r#"[7,4,"Sensor"]"#,
        ),
        (
            "function decodeUplink(input) { return { data: [input.bytes, input.fPort, input.recvTime, input.variables], warnings: [] }; }",
            Dialect::Ts013,
            r#"[[1,2,3,255],85,"2023-11-14T22:13:20.000Z",{}]"#,
        ),
        (
            "var driver = { k: 2, decodeUplink(input) { return { data: input.bytes.map((b) => b * this.k) }; } };",
            Dialect::Actility,
            "[2,4,6,510]",
        ),
        ("exports.decodeUplink = (input) => ({ data: input.fPort });", Dialect::Actility, "85"),
        ("module.exports = { decodeUplink: (input) => ({ data: input.fPort }) };", Dialect::Actility, "85"),
        (
            "exports.driver = { decodeUplink: (input) => ({ data: Array.isArray(input.bytes) }) };",
            Dialect::Actility,
            "true",
        ),
        (
            "function Decode(fPort, bytes, variables) { return { fPort, n: bytes.length, variables }; }",
            Dialect::Chirpstack3,
            r#"{"fPort":85,"n":4,"variables":{}}"#,
        ),
        (
            "function Decoder(bytes, port) { return { port: port, sum: bytes.reduce((a, b) => a + b) }; }",
            Dialect::Ttn2,
            r#"{"port":85,"sum":261}"#,
        ),
        ("const decodeUplink = ({ bytes }) => ({ data: bytes.slice().reverse() });", Dialect::Ts013, "[255,3,2,1]"),
    ] {
        let recognised = compile(&engine, source);
        assert_eq!(recognised.dialect, dialect, "{source}");
        assert_eq!(run(&engine, &recognised, EVENT).as_deref(), Ok(expected), "{source}");
        assert_eq!(with_dialect(&engine, source, dialect, EVENT).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn comments_and_texts_do_not_mislead_the_recognition() {
    let engine = engine();
    for (source, dialect) in [
        ("// function decodeUplink(input) {}\nfunction Decoder(bytes, port) {}", Dialect::Ttn2),
        ("/* function decode(payload, metadata) {} */ function decodeUplink(input) {}", Dialect::Ts013),
        ("const help = 'function decode(payload, metadata)'; function Decode(fPort, bytes) {}", Dialect::Chirpstack3),
        ("function outer() { function decodeUplink(i) {} } function Decoder(bytes) {}", Dialect::Ttn2),
        (
            "function Decoder(b, p) {} function decodeUplink(i) {} function decode(payload, metadata) {}",
            Dialect::Os2iot,
        ),
        ("function decode(parameters, bytes, port, flat) {} function Decoder(bytes, port) {}", Dialect::Ttn2),
        ("function decode(bytes) {}", Dialect::Os2iot),
        ("if (typeof module !== 'undefined') { module.exports = {}; } function decodeUplink(i) {}", Dialect::Ts013),
        ("function decodeUplink(i) {} module.exports = { decodeUplink };", Dialect::Ts013),
    ] {
        assert_eq!(compile(&engine, source).dialect, dialect, "{source}");
    }
}

#[test]
fn module_and_exports_are_given_to_actility_only() {
    let engine = engine();
    let source = "const seen = typeof module + typeof exports; function decode(payload, metadata) { return seen; }";
    assert_eq!(once(&engine, source, "{}").unwrap(), r#""undefinedundefined""#);
    let source =
        "const seen = typeof module + typeof exports; var driver = { decodeUplink() { return { data: seen } } };";
    assert_eq!(with_dialect(&engine, source, Dialect::Actility, EVENT).unwrap(), r#""objectobject""#);
}

#[test]
fn a_missing_entry_function_is_named() {
    let engine = engine();
    for dialect in Dialect::ALL {
        let error = engine.compile("const x = 1;", Some(dialect)).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Script);
        assert!(error.message.contains("ecode"), "{}", error.message);
    }
}

#[test]
fn errors_of_a_ts013_result_fail_the_decode_and_warnings_are_counted() {
    let engine = engine();
    let ts013 = |result: &str| once(&engine, &format!("function decodeUplink(input) {{ return {result}; }}"), EVENT);
    let error = ts013("{ data: { a: 1 }, errors: ['bad length', { code: 2 }] }").unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Thrown);
    assert_eq!(error.message, r#"the script returned errors: bad length; {"code":2}"#);
    assert_eq!(ts013("{ data: { a: 1 }, errors: [] }").unwrap(), r#"{"a":1}"#);
    assert_eq!(ts013("{ data: null, errors: null }").unwrap(), "null");
    assert_eq!(ts013("{ warnings: ['x'] }").unwrap(), "undefined");
    assert_eq!(ts013("undefined").unwrap(), "undefined");
    assert_eq!(kind_of(ts013("5")), DecodeErrorKind::Result);
    assert_eq!(kind_of(ts013("Promise.resolve({ data: 1 })")), DecodeErrorKind::Result);
    assert_eq!(kind_of(ts013("{ data: () => 1 }")), DecodeErrorKind::Result);

    let compiled = compile(&engine, "function decodeUplink(input) { return { data: 1, warnings: ['a', 'b'] }; }");
    let call = Call { payload: EVENT.as_bytes(), metadata: "{}", received_at_ms: 0 };
    assert_eq!(engine.run(&compiled, call, &mut Vec::new()), Ok(Outcome::Value { num_warnings: 2 }));
}

#[test]
fn payloads_without_readable_bytes_are_payload_errors() {
    let engine = engine();
    let compiled = compile(&engine, "function Decoder(bytes, port) { return [bytes.length, port]; }");
    assert_eq!(run(&engine, &compiled, r#"{"data":""}"#).unwrap(), "[0,0]");
    for payload in [r#"{"fPort":1}"#, r#"{"data":"","joinServerContext":{}}"#, "[1]", r#"{"data":"*"}"#] {
        assert_eq!(kind_of(run(&engine, &compiled, payload)), DecodeErrorKind::Payload, "{payload}");
    }
}

#[test]
fn sloppy_scripts_and_the_hosts_helpers_work() {
    let engine = engine();
    for (source, expected) in [
        ("function decode(payload, metadata) { i = 0; for (j = 0; j < 3; j++) i += j; return i; }", "3"),
        ("decode = function (payload, metadata) { return 010; }", "8"),
        (
            "function decode(payload, metadata) { console.log('x', payload); console.error(); return btoa(atob('AQI=')); }",
            r#""AQI=""#,
        ),
        ("function decode(payload, metadata) { with ({ a: 5 }) { return a; } }", "5"),
        ("var self = this; self.k = 4; function decode(payload, metadata) { return k; }", "4"),
        (
            "function decode(payload, metadata) { return 'abc'.substr(1, 1) + unescape('%41') + new Date(0).getYear(); }",
            r#""bA70""#,
        ),
    ] {
        assert_eq!(once(&engine, source, "{}").as_deref(), Ok(expected), "{source}");
    }
    for (expression, expected) in [
        ("Buffer.from('AQID/w==', 'base64').toString('hex')", r#""010203ff""#),
        ("Buffer.from([1, 2, 3]).readUInt16BE(1)", "515"),
        ("Buffer.from('ff7f', 'hex').readInt16LE(0)", "32767"),
        ("Buffer.from('0000803f', 'hex').readFloatLE()", "1"),
        ("Buffer.from('800001', 'hex').readIntBE(0, 3)", "-8388607"),
        ("Buffer.concat([Buffer.from('æ'), Buffer.alloc(1)]).toString('base64')", r#""w6YA""#),
        ("[Buffer.from('aé😀').length, Buffer.from('aé😀').toString()]", r#"[7,"aé😀"]"#),
        ("Buffer.from([1, 2, 3, 4]).slice(1, 3).toString('hex')", r#""0203""#),
        ("Buffer.isBuffer(Buffer.from('')) && Buffer.from('x') instanceof Uint8Array", "true"),
        ("new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 0xc3, 0xa6, 0xff]))", "\"æ\u{fffd}\""),
        ("new TextDecoder('utf-8').decode(new TextEncoder().encode('grød €'))", r#""grød €""#),
        ("Array.from(new TextEncoder().encode('\\ud800'))", "[239,191,189]"),
        ("new TextDecoder('latin1').decode(new Uint8Array([0xe6]))", r#""æ""#),
    ] {
        assert_eq!(value(&engine, expression).as_deref(), Ok(expected), "{expression}");
    }
}
