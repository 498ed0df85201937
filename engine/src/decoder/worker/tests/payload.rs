//! `payload` and `metadata` behave as plain parsed JSON, although most of them is parsed late.

use proptest::prelude::*;

use super::*;

/// Does the same to the payload and to `JSON.parse` of its text, and answers both texts, escaped.
fn both_ways(engine: &Engine, operation: &str, payload: &str) -> (String, String) {
    let quoted = serde_json::to_string(payload).unwrap();
    let source = format!(
        "const text = {quoted};
         const f = (p) => {{ {operation} }};
         const say = (p) => {{ try {{ return escape(String(f(p))) }} catch (e) {{ return 'threw ' + e.name }} }};
         function decode(payload, metadata) {{ return [say(payload), say(JSON.parse(text))]; }}"
    );
    let answer: [String; 2] = serde_json::from_str(&once(engine, &source, payload).unwrap()).unwrap();
    let [lazy, plain] = answer;
    (lazy, plain)
}

const EVENT: &str = r#"{"deduplicationId":"df0eae92","time":"2026-11-22T12:38:09.559263153+00:00","deviceInfo":{"tenantName":"ChirpStack","devEui":"a81758fffe0000a1","tags":{"a":"1","b":"æ"}},"devAddr":"01020304","adr":true,"dr":5,"fCnt":0,"fPort":2,"confirmed":false,"data":"AQDrAi8EAPkFAAcDog==","rxInfo":[{"gatewayId":"0016c001f1510002","rssi":-91,"snr":-1.5,"location":{"latitude":56.15,"longitude":10.2}},{"gatewayId":"0016c001f1510001","rssi":-60}],"txInfo":{"frequency":868100000,"modulation":{"lora":{"bandwidth":125000,"spreadingFactor":7}}},"7":"seven","escaped\u0041":"\ud83d\ude00 \"q\"","empty":{},"none":null,"neg":-0,"big":12345678901234567890,"exp":1.50e-7}"#;

const OPERATIONS: &[&str] = &[
    "return JSON.stringify(p)",
    "return JSON.stringify(p, null, 2)",
    "return Object.keys(p)",
    "return Object.values(p).map((v) => typeof v)",
    "return JSON.stringify(Object.entries(p))",
    "return JSON.stringify({ ...p, x: 1 })",
    "const { rxInfo, ...rest } = p; return JSON.stringify([rxInfo, rest])",
    "return JSON.stringify(Object.assign({}, p))",
    "let s = ''; for (const k in p) s += k; return s",
    "return ['rxInfo' in p, 'nope' in p, p.hasOwnProperty('rxInfo'), Object.hasOwn(p, 'txInfo')]",
    "return p.rxInfo[0].rssi + p.rxInfo.length",
    "return p.rxInfo === p.rxInfo && p.deviceInfo === p['deviceInfo']",
    "p.rxInfo[0].rssi = 5; p.rxInfo.push(1); return JSON.stringify(p.rxInfo)",
    "p.rxInfo = 5; return JSON.stringify(p)",
    "p.rxInfo = { a: 1 }; p.rxInfo.b = 2; return JSON.stringify(p)",
    "delete p.rxInfo; return JSON.stringify(p) + ('rxInfo' in p)",
    "delete p.rxInfo; p.rxInfo = 1; return Object.keys(p)",
    "p.added = 1; return Object.keys(p)",
    "const c = Object.create(p); c.rxInfo = 1; return JSON.stringify([c.rxInfo, p.rxInfo, Object.keys(c)])",
    "const c = Object.create(p); return JSON.stringify(c.deviceInfo) + Object.keys(c)",
    "Object.freeze(p); return JSON.stringify(p) + (p.rxInfo === p.rxInfo)",
    "Object.seal(p); p.rxInfo = 3; return JSON.stringify(p)",
    "return Object.getPrototypeOf(p) === Object.prototype && p.constructor === Object",
    "return Object.prototype.toString.call(p) + p",
    "p.txInfo; const d = Object.getOwnPropertyDescriptor(p, 'txInfo'); return JSON.stringify(d)",
    "const d = Object.getOwnPropertyDescriptor(p, 'txInfo'); return d.enumerable + '' + d.configurable",
    "return Object.is(p.neg, -0) + ' ' + p.big + ' ' + p.exp",
    "return Object.getOwnPropertyNames(p) + Reflect.ownKeys(p)",
    "return Array.isArray(p.rxInfo) + (p.rxInfo instanceof Array) + p.rxInfo.map((r) => r.rssi)",
    "Object.defineProperty(p, 'rxInfo', { enumerable: false }); p.rxInfo; return JSON.stringify(p)",
    "return JSON.stringify(structured(p)); function structured(o) { return o && typeof o === 'object' ? (Array.isArray(o) ? o.map(structured) : Object.fromEntries(Object.entries(o).map(([k, v]) => [k, structured(v)]))) : o }",
    "return p.toString === Object.prototype.toString",
    "Array.prototype[0] = 'poison'; return JSON.stringify(p.rxInfo)",
];

#[test]
fn a_payload_is_no_different_from_parsed_json() {
    let engine = engine();
    for operation in OPERATIONS {
        let (lazy, plain) = both_ways(&engine, operation, EVENT);
        assert_eq!(lazy, plain, "{operation}");
    }
}

#[test]
fn a_payload_that_is_no_object_is_what_it_is() {
    let engine = engine();
    for payload in ["[1,{\"a\":2}]", "5", "-0.5", "\"text\"", "null", "true", "[]", " {\"a\" : 1 } "] {
        let (lazy, plain) = both_ways(&engine, "return JSON.stringify(p)", payload);
        assert_eq!(lazy, plain, "{payload}");
    }
}

#[test]
fn repeated_and_odd_names_are_read_as_by_json_parse() {
    let engine = engine();
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(60));
    for payload in [
        format!(r#"{{"a":{long},"b":1,"a":2}}"#),
        format!(r#"{{"a":2,"b":1,"a":{long}}}"#),
        format!(r#"{{"a":{long},"a":{long}}}"#),
        format!(r#"{{"__proto__":{long},"b":1}}"#),
        format!(r#"{{"10":1,"b":{long},"2":{long}}}"#),
        r#"{"\ud800":1,"x":"\udfff"}"#.to_owned(),
        r#"{"":"empty name","constructor":1,"length":2}"#.to_owned(),
    ] {
        for operation in ["return JSON.stringify(p)", "return Object.keys(p)", "return JSON.stringify({ ...p })"] {
            let (lazy, plain) = both_ways(&engine, operation, &payload);
            assert_eq!(lazy, plain, "{operation} of {payload}");
        }
    }
}

#[test]
fn what_is_not_json_is_a_payload_error() {
    let engine = engine();
    let compiled = compile(&engine, "function decode(payload, metadata) { return 1; }");
    for payload in ["", "{", "{'a':1}", "{\"a\":01}", "[1,]", "nul", "{\"a\":1}}", "{\"a\":{\"b\":tru}}"] {
        assert_eq!(kind_of(run(&engine, &compiled, payload)), DecodeErrorKind::Payload, "{payload}");
    }
    let call = Call { payload: b"\"\xff\"", metadata: "{}", received_at_ms: 0 };
    assert_eq!(engine.run(&compiled, call, &mut Vec::new()).unwrap_err().kind, DecodeErrorKind::Payload);
}

#[test]
fn metadata_has_dates_as_in_the_references_pipeline() {
    let engine = engine();
    let expression = "[
        metadata.createdAt instanceof Date, metadata.updatedAt.getUTCFullYear(), metadata.application.createdAt instanceof Date,
        metadata.application.startDate.getTime(), metadata.application.endDate, metadata.application.name, metadata.deviceModel,
        JSON.parse(metadata.metadata).k, metadata.location.coordinates, typeof metadata.name,
    ]";
    assert_eq!(
        value(&engine, expression).unwrap(),
        r#"[true,2026,true,1767225600000,null,"Egress",null,"v",[10.2,56.1],"string"]"#
    );
    let whole: serde_json::Value = serde_json::from_str(&value(&engine, "metadata").unwrap()).unwrap();
    assert_eq!(whole, serde_json::from_str::<serde_json::Value>(METADATA).unwrap());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        ".{0,60}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".{0,12}", inner), 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

#[test]
fn any_json_survives_as_through_parse_and_stringify() {
    let engine = engine();
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&json(), |value| {
            let (lazy, plain) = both_ways(&engine, "return JSON.stringify(p)", &value.to_string());
            prop_assert_eq!(lazy, plain);
            Ok(())
        })
        .unwrap();
}
