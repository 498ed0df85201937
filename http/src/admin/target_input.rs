//! What a client says of a data target, checked in the reference's words. Pure.
//!
//! The type is fixed when a target is made. Secrets follow [`super::mask`]; `clientSecret: ""` keeps the stored secret as long as
//! there is a `clientId`, since the web client sends it so. A URL to a private network is no error here: the egress rule speaks
//! when something is sent.

use std::io::BufReader;

use serde_json::Value;
use sluse_schema::id::ApplicationId;
use sluse_schema::port::admin::target::{Dataset, TargetFields, TargetType};

use super::mask::{NO_NUL, means_keep, merged};
use crate::error::ApiResult;
use crate::validate::{Form, Rule, as_int};

/// Longest wait for a receiver.
const TIMEOUT_MS_MAX: i64 = 600_000;
const RATE_PER_SECOND_MAX: i64 = 100_000;
const NUM_IN_FLIGHT_MAX: i64 = 1024;
const CA_CERTIFICATES_BYTES_MAX: usize = 256 * 1024;
/// Ten years.
const AGE_SECONDS_MAX: i64 = 315_360_000;

const URL_TEXT: &str = "url must be a URL address";

/// Reads a body. `stored` is the target that is changed.
///
/// # Errors
/// 400 with everything that is wrong.
pub fn read(body: &Value, stored: Option<&TargetFields>) -> ApiResult<TargetFields> {
    let mut form = Form::of(body);
    let name = form.text("name", &[Rule::Min(1), Rule::Max(50)]);
    let application = ApplicationId(form.id("applicationId", Some(1)));
    let kind = match stored {
        Some(stored) => Some(stored.kind),
        None => TargetType::of_str(&form.beyond(|form| form.one_of("type", &TargetType::ALL.map(TargetType::as_str)))),
    };
    let Some(kind) = kind else {
        // To the reference it is a target like most.
        read_address(&mut form);
        form.finish()?;
        return Err(crate::error::ApiError::bad_request("type is not known"));
    };
    let mut fields = TargetFields {
        application,
        kind,
        name,
        url: None,
        timeout_ms: 30_000,
        authorization_header: None,
        mqtt_port: None,
        mqtt_topic: None,
        mqtt_qos: None,
        mqtt_username: None,
        mqtt_password: None,
        tenant: None,
        context: None,
        token_endpoint: None,
        client_id: None,
        client_secret: None,
        ca_certificates: None,
        rate_per_second: None,
        num_in_flight_max: None,
        age_seconds_max: None,
        dataset: None,
    };
    if kind == TargetType::OpenDataDk {
        fields.dataset = read_dataset(&mut form);
    } else {
        let (url, timeout_ms) = read_address(&mut form);
        (fields.url, fields.timeout_ms) = (Some(url), timeout_ms);
        read_limits(&mut form, stored, &mut fields);
    }
    match kind {
        TargetType::HttpPush => read_authorization(&mut form, stored, &mut fields),
        TargetType::Fiware => {
            read_authorization(&mut form, stored, &mut fields);
            read_fiware(&mut form, stored, &mut fields);
        }
        TargetType::Mqtt => read_mqtt(&mut form, stored, &mut fields),
        TargetType::OpenDataDk => {}
    }
    form.finish()?;
    Ok(fields)
}

/// Where a target is, and for how many milliseconds it is waited for.
fn read_address(form: &mut Form<'_>) -> (String, i64) {
    let url = form.text("url", &[Rule::Max(1024), Rule::NotBlank, Rule::Custom("isUrl", URL_TEXT, is_target_url)]);
    let timeout_ms = form.int_capped("timeout", None, TIMEOUT_MS_MAX);
    if form.get("timeout").and_then(as_int).is_some_and(|ms| ms < 1) {
        form.beyond(|form| form.fail("timeout", "min", "timeout must not be less than 1"));
    }
    (url, timeout_ms)
}

/// What class-validator's `isUrl` is asked for: one of four protocols, a host, no white space; no top-level domain needed.
fn is_target_url(text: &str) -> bool {
    is_url(text, &["http", "https", "mqtt", "mqtts"])
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_known = schemes.contains(&scheme.to_ascii_lowercase().as_str());
    is_known && !rest.is_empty() && url::Url::parse(text).is_ok_and(|url| is_host(url.host()))
}

/// A name of labels as DNS has them, without underscores, or an address.
fn is_host(host: Option<url::Host<&str>>) -> bool {
    match host {
        Some(url::Host::Domain(name)) => name.trim_end_matches('.').split('.').all(|label| {
            (1..=63).contains(&label.len()) && !label.contains('_') && !label.starts_with('-') && !label.ends_with('-')
        }),
        other => other.is_some(),
    }
}

/// Headers are one line of visible text, or they could smuggle others in.
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b))
}

fn read_authorization(form: &mut Form<'_>, stored: Option<&TargetFields>, fields: &mut TargetFields) {
    const TEXT: &str = "authorizationHeader must be one line of ASCII text";
    let rules = [Rule::Max(8192), Rule::Custom("matches", TEXT, is_header_value)];
    form.beyond(|form| form.text_opt("authorizationHeader", &rules));
    let kept = stored.and_then(|stored| stored.authorization_header.as_ref());
    fields.authorization_header = merged(form.get("authorizationHeader"), kept);
}

fn read_fiware(form: &mut Form<'_>, stored: Option<&TargetFields>, fields: &mut TargetFields) {
    let kept = |name: &str, form: &mut Form<'_>, was: Option<&String>| {
        if !form.has(name) {
            return was.cloned();
        }
        form.beyond(|form| form.text_opt(name, &[Rule::Max(1024)])).filter(|text| !text.is_empty())
    };
    fields.tenant = kept("tenant", form, stored.and_then(|s| s.tenant.as_ref()));
    fields.context = kept("context", form, stored.and_then(|s| s.context.as_ref()));
    fields.token_endpoint = kept("tokenEndpoint", form, stored.and_then(|s| s.token_endpoint.as_ref()));
    fields.client_id = kept("clientId", form, stored.and_then(|s| s.client_id.as_ref()));
    form.beyond(|form| form.text_opt("clientSecret", &[Rule::Max(8192), NO_NUL]));
    let was = stored.and_then(|s| s.client_secret.as_ref());
    let sent = form.get("clientSecret").filter(|value| *value != "");
    fields.client_secret = if fields.client_id.is_some() { merged(sent, was) } else { merged(sent, None) };
}

fn read_mqtt(form: &mut Form<'_>, stored: Option<&TargetFields>, fields: &mut TargetFields) {
    let lengths = [Rule::NotEmpty, Rule::Max(100)];
    // Any port: the reference asks for 1025 and more, though 883 and 443 are in use for MQTT. None is assumed.
    fields.mqtt_port = i32::try_from(form.int_capped("mqttPort", Some(1025), 65_535)).ok();
    fields.mqtt_topic = Some(form.text("mqttTopic", &lengths));
    let qos = form.get("mqttQos").and_then(as_int).filter(|qos| (0..=2).contains(qos));
    if qos.is_none() {
        form.fail("mqttQos", "isEnum", "mqttQos must be one of the following values: 0, 1, 2");
    }
    fields.mqtt_qos = qos.and_then(|qos| i16::try_from(qos).ok());
    fields.mqtt_username = Some(form.text("mqttUsername", &lengths));
    if fields.mqtt_topic.as_ref().is_some_and(|topic| topic.contains(['#', '+', '\0'])) {
        form.fail("mqttTopic", "matches", "mqttTopic must be a topic without wildcards");
    }
    let kept = stored.and_then(|stored| stored.mqtt_password.as_ref());
    if kept.is_none() || !means_keep(form.get("mqttPassword")) {
        form.text("mqttPassword", &lengths);
        form.beyond(|form| form.text_opt("mqttPassword", &[NO_NUL]));
    }
    fields.mqtt_password = merged(form.get("mqttPassword"), kept);
}

/// Our own fields: absent keeps, `null` clears.
fn read_limits(form: &mut Form<'_>, stored: Option<&TargetFields>, fields: &mut TargetFields) {
    let limit = |form: &mut Form<'_>, name: &str, max: i64, was: Option<i64>| {
        if form.has(name) { form.int_opt(name, Some(1), Some(max)) } else { was }
    };
    let rate = stored.and_then(|s| s.rate_per_second).map(i64::from);
    let in_flight = stored.and_then(|s| s.num_in_flight_max).map(i64::from);
    let age = stored.and_then(|s| s.age_seconds_max);
    fields.rate_per_second =
        limit(form, "ratePerSecond", RATE_PER_SECOND_MAX, rate).and_then(|n| i32::try_from(n).ok());
    fields.num_in_flight_max =
        limit(form, "maxInFlight", NUM_IN_FLIGHT_MAX, in_flight).and_then(|n| i32::try_from(n).ok());
    fields.age_seconds_max = limit(form, "maxAgeSeconds", AGE_SECONDS_MAX, age);
    fields.ca_certificates = if form.has("caCertificates") {
        const TEXT: &str = "caCertificates must be certificates of authorities in PEM form";
        form.text_opt(
            "caCertificates",
            &[Rule::Max(CA_CERTIFICATES_BYTES_MAX), Rule::Custom("isPem", TEXT, |t| t.is_empty() || is_ca_pem(t))],
        )
        .filter(|pem| !pem.is_empty())
    } else {
        stored.and_then(|s| s.ca_certificates.clone())
    };
}

/// Whether a text holds at least one certificate, and nothing that cannot be an authority's.
fn is_ca_pem(text: &str) -> bool {
    let certificates: Result<Vec<_>, _> = rustls_pemfile::certs(&mut BufReader::new(text.as_bytes())).collect();
    certificates
        .is_ok_and(|list| !list.is_empty() && list.iter().all(|der| webpki::anchor_from_trusted_cert(der).is_ok()))
}

fn read_dataset(form: &mut Form<'_>) -> Option<Dataset> {
    let nested = form.get("openDataDkDataset")?;
    if !nested.is_object() && !nested.is_array() {
        let text = "each value in nested property openDataDkDataset must be either object or array";
        form.fail("openDataDkDataset", "nestedValidation", text);
        return None;
    }
    let mut inner = Form::of(nested);
    let required = [Rule::NotEmpty, Rule::Max(4096)];
    let dataset = Dataset {
        name: inner.text("name", &required),
        description: inner.text("description", &required),
        keywords: read_keywords(&mut inner),
        license: inner.text(
            "license",
            &[
                Rule::Max(1024),
                Rule::Custom("isUrl", "license must be a URL address", |t| is_url(t, &["http", "https"])),
            ],
        ),
        author_name: inner.text("authorName", &required),
        author_email: inner.text("authorEmail", &[Rule::Email]),
        resource_title: inner.text("resourceTitle", &required),
        update_frequency: inner.text_opt("updateFrequency", &[Rule::Max(100)]),
        documentation_url: inner.text_opt("documentationUrl", &[Rule::Max(1024)]),
        data_directory: inner.text_opt("dataDirectory", &[Rule::Max(1024)]),
    };
    form.close_inside("openDataDkDataset", inner);
    Some(dataset)
}

fn read_keywords(form: &mut Form<'_>) -> Option<Vec<String>> {
    let value = form.get("keywords")?;
    let texts: Option<Vec<String>> =
        value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    if texts.as_ref().is_none_or(|texts| texts.len() > 100) {
        form.fail("keywords", "isString", "each value in keywords must be a string");
    }
    texts
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluse_schema::secret::Secret;

    use super::*;
    use crate::validate::MASK;

    fn with(mut body: Value, more: Value) -> Value {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    fn http(more: Value) -> Value {
        let body = json!({"name": "Hub", "type": "HTTP_PUSH", "applicationId": 1, "url": "https://hub.example.org/in", "timeout": 3000});
        with(body, more)
    }

    fn mqtt(more: Value) -> Value {
        let body = json!({"name": "B", "type": "MQTT", "applicationId": 1, "url": "mqtts://broker.example.org", "timeout": 3000,
            "mqttPort": 8883, "mqttTopic": "out/city", "mqttQos": 1, "mqttUsername": "u", "mqttPassword": "p"});
        with(body, more)
    }

    fn status(body: Value) -> u16 {
        read(&body, None).map_or_else(|e| e.status().as_u16(), |_| 200)
    }

    #[test]
    fn urls_of_four_protocols_are_taken_private_ones_too_and_nothing_else() {
        for good in ["http://127.0.0.1:9", "https://hub", "mqtt://10.0.0.1", "HTTPS://hub.example.org/a?b#c"] {
            assert_eq!(status(http(json!({"url": good}))), 200, "{good}");
        }
        for bad in [
            "not a url",
            "ftp://hub",
            "https://",
            "//hub",
            "",
            "   ",
            "https://a b",
            "javascript:alert(1)",
            "http://x_y.org",
        ] {
            assert_eq!(status(http(json!({"url": bad}))), 400, "{bad}");
        }
    }

    #[test]
    fn secrets_are_kept_by_the_mask_cleared_by_an_empty_text_and_never_echoed_in_errors() {
        let stored = read(&http(json!({"authorizationHeader": "Bearer x"})), None).unwrap();
        let after = |sent: Value| read(&http(sent), Some(&stored)).unwrap().authorization_header;
        assert_eq!(after(json!({"authorizationHeader": MASK})), Some(Secret::new("Bearer x")));
        assert_eq!(after(json!({})), Some(Secret::new("Bearer x")));
        assert_eq!(after(json!({"authorizationHeader": ""})), None);
        assert_eq!(after(json!({"authorizationHeader": "Bearer y"})), Some(Secret::new("Bearer y")));
        let error = read(&http(json!({"authorizationHeader": "Bearer x", "url": "nope"})), None).unwrap_err();
        assert!(!error.body().to_string().contains("Bearer x"), "{}", error.body());
    }

    #[test]
    fn a_header_with_a_line_break_is_refused() {
        assert_eq!(status(http(json!({"authorizationHeader": "Bearer x\r\nHost: evil"}))), 400);
    }

    #[test]
    fn an_mqtt_target_needs_port_topic_qos_user_and_password() {
        assert_eq!(status(mqtt(json!({}))), 200);
        for missing in ["mqttPort", "mqttTopic", "mqttQos", "mqttUsername", "mqttPassword"] {
            assert_eq!(status(mqtt(json!({missing: null}))), 400, "{missing}");
        }
        assert_eq!(status(mqtt(json!({"mqttPort": 1025}))), 200);
        assert_eq!(status(mqtt(json!({"mqttPort": 1024}))), 400);
        assert_eq!(status(mqtt(json!({"mqttPort": 65_536}))), 400);
        assert_eq!(status(mqtt(json!({"mqttTopic": "a/+"}))), 400);
        let stored = read(&mqtt(json!({})), None).unwrap();
        let kept = read(&mqtt(json!({"mqttPassword": MASK})), Some(&stored)).unwrap();
        assert_eq!(kept.mqtt_password, Some(Secret::new("p")));
    }

    #[test]
    fn the_client_secret_stays_with_its_client_id() {
        let fiware = |more| with(http(json!({"type": "FIWARE"})), more);
        let stored = read(&fiware(json!({"clientId": "c", "clientSecret": "s"})), None).unwrap();
        let after = |sent| read(&fiware(sent), Some(&stored)).unwrap().client_secret;
        assert_eq!(after(json!({"clientId": "c", "clientSecret": ""})), Some(Secret::new("s")));
        assert_eq!(after(json!({"clientId": ""})), None);
    }

    #[test]
    fn limits_are_kept_when_absent_and_cleared_by_null() {
        let stored = read(&http(json!({"ratePerSecond": 5, "maxInFlight": 3, "maxAgeSeconds": 60})), None).unwrap();
        let kept = read(&http(json!({})), Some(&stored)).unwrap();
        assert_eq!((kept.rate_per_second, kept.num_in_flight_max, kept.age_seconds_max), (Some(5), Some(3), Some(60)));
        assert_eq!(read(&http(json!({"ratePerSecond": null})), Some(&stored)).unwrap().rate_per_second, None);
        for bad in [json!({"ratePerSecond": 0}), json!({"maxInFlight": 1.5}), json!({"maxAgeSeconds": "x"})] {
            assert_eq!(status(http(bad.clone())), 400, "{bad}");
        }
    }

    #[test]
    fn certificates_are_pem_of_authorities() {
        for bad in ["x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(status(http(json!({"caCertificates": bad}))), 400, "{bad}");
        }
        assert_eq!(status(http(json!({"caCertificates": ""}))), 200);
    }
}
