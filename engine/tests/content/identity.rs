//! Devices of our own MQTT broker: what they are told, and what they prove themselves with.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};

use crate::engine::{engine, id};

fn device(application: i64, settings: Value) -> Value {
    json!({"name": "Pump 7", "type": "MQTT_INTERNAL_BROKER", "applicationId": application, "mqttInternalBrokerSettings": settings})
}

#[tokio::test]
async fn a_device_with_a_password_gets_its_topic_and_a_hash_that_the_broker_can_verify() {
    let engine = engine().await;
    let tenant = engine.tenant("Identity A", &["OrganizationApplicationAdmin"]).await;
    let body = device(
        tenant.application,
        json!({"authenticationType": "PASSWORD", "mqttusername": "pump7", "mqttpassword": "pump s3cret"}),
    );
    let made = engine.made(&tenant.token, "/iot-device", body.clone()).await;
    let topic = format!("devices/{}/{}/{}", tenant.organization, tenant.application, id(&made));
    assert_eq!(made["mqtttopicname"], topic);
    assert_eq!((&made["mqttURL"], &made["mqttPort"]), (&json!("mqtts://mqtt.example.org"), &json!(8885)));
    assert_eq!((&made["permissions"], &made["mqttusername"]), (&json!("write"), &json!("pump7")));
    let verify = |hash: &Value, password: &str| {
        let parts: Vec<&str> = hash.as_str().unwrap().split('$').collect();
        assert_eq!(parts[..3], ["PBKDF2", "sha512", "1000"]);
        let (salt, key) = (STANDARD.decode(parts[3]).unwrap(), STANDARD.decode(parts[4]).unwrap());
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, 1000.try_into().unwrap(), &salt, password.as_bytes(), &key).is_ok()
    };
    assert!(verify(&made["mqttpasswordhash"], "pump s3cret"));

    // The web client sends the whole object back; the mask keeps the password, and its hash with it.
    let path = format!("/iot-device/{}", id(&made));
    let mut change = body;
    change["id"] = made["id"].clone();
    change["mqttInternalBrokerSettings"]["mqttpassword"] = json!("********");
    let (status, changed) = engine.put(&tenant.token, &path, change.clone()).await;
    assert_eq!((status, &changed["mqttpasswordhash"]), (200, &made["mqttpasswordhash"]), "{changed}");
    assert_eq!(changed["mqtttopicname"], topic);
    change["mqttInternalBrokerSettings"]["mqttpassword"] = json!("another");
    let (_, changed) = engine.put(&tenant.token, &path, change).await;
    assert!(verify(&changed["mqttpasswordhash"], "another"));
}

#[tokio::test]
async fn a_device_with_a_certificate_gets_one_that_our_authority_signed() {
    let engine = engine().await;
    let tenant = engine.tenant("Identity B", &["OrganizationApplicationAdmin"]).await;
    let body = device(tenant.application, json!({"authenticationType": "CERTIFICATE"}));
    let made = engine.made(&tenant.token, "/iot-device", body.clone()).await;
    assert_eq!((&made["mqttPort"], &made["mqttusername"]), (&json!(8884), &json!("Pump 7")));
    let der = |name: &str| {
        let pem = made[name].as_str().unwrap_or_else(|| panic!("{name}: {made}"));
        rustls_pemfile::certs(&mut pem.as_bytes()).next().unwrap().unwrap()
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der("caCertificate")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    assert!(verifier.verify_client_cert(&der("deviceCertificate"), &[], UnixTime::now()).is_ok());
    let key = made["deviceCertificateKey"].as_str().unwrap();
    assert!(rustls_pemfile::private_key(&mut key.as_bytes()).unwrap().is_some());

    let mut change = body.clone();
    change["id"] = made["id"].clone();
    let (status, changed) = engine.put(&tenant.token, &format!("/iot-device/{}", id(&made)), change).await;
    assert_eq!((status, &changed["deviceCertificate"]), (200, &made["deviceCertificate"]), "a change keeps it");
    let other = engine.made(&tenant.token, "/iot-device", body).await;
    assert_eq!(other["caCertificate"], made["caCertificate"], "there is one authority");
    assert_ne!(other["deviceCertificate"], made["deviceCertificate"]);
}
