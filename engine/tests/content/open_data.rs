//! Open Data DK: the catalogue, what is read through it, and the flag of registration.

use serde_json::{Value, json};

use crate::engine::{CONNECTIONS, Engine, Tenant, decoder, engine, http_device, id};
use crate::golden::Golden;
use crate::smtp::REFUSED;

async fn dataset(engine: &Engine, tenant: &Tenant) -> i64 {
    let body = json!({"name": "Open", "type": "OPENDATADK", "applicationId": tenant.application, "openDataDkDataset": {
        "name": "Air", "description": "d", "keywords": ["air"], "license": "https://creativecommons.org/licenses/by/4.0/",
        "authorName": "A", "authorEmail": "a@example.org", "resourceTitle": "r"}});
    id(&engine.made(&tenant.token, "/data-target", body).await)
}

async fn public(engine: &Engine, path: &str) -> (u16, Value) {
    engine.call("GET", path, None, None).await
}

#[tokio::test]
async fn anybody_reads_the_catalogue_and_the_newest_readings_decoded() {
    let engine = engine().await;
    let tenant = engine.tenant("Open data A", &["OrganizationApplicationAdmin"]).await;
    let target = dataset(&engine, &tenant).await;
    let mut golden = Golden::default();
    let path = format!("/open-data-dk-sharing/{}", tenant.organization);
    let catalogue = golden.add("catalogue", public(&engine, &path).await);
    let url = catalogue["dataset"][0]["distribution"][0]["accessURL"].as_str().unwrap();
    let share = url.strip_prefix("https://iot.example.org/api/v1").unwrap().to_owned();
    golden.add("nothing yet", public(&engine, &share).await);

    let mut keys = Vec::new();
    for (name, source) in [
        (
            "decoded",
            Some("function decode(payload, metadata) { return {t: payload.raw / 10, device: metadata.name}; }"),
        ),
        ("as it is", None),
        ("broken", Some("function decode() { throw new Error('no'); }")),
    ] {
        let device = engine.made(&tenant.token, "/iot-device", http_device(name, tenant.application)).await;
        let decoder_id = match source {
            Some(source) => json!(id(&engine
                .made(&tenant.token, "/payload-decoder", decoder(name, tenant.organization, source))
                .await)),
            None => Value::Null,
        };
        let body = json!({"iotDeviceIds": [id(&device)], "payloadDecoderId": decoder_id, "dataTargetId": target});
        engine.made(&tenant.token, CONNECTIONS, body).await;
        keys.push((id(&device), device["apiKey"].as_str().unwrap().to_owned()));
    }
    for (_, key) in &keys {
        engine.receive(key, json!({"raw": 213})).await;
    }
    let broken = format!("Could not decode data for device({})", keys[2].0);
    let want = json!([{"t": 21.3, "device": "decoded"}, {"raw": 213}, {"error": broken}]);
    engine.eventually(&tenant.token, &share, |data| *data == want).await;
    // A device that leaves takes its readings along.
    let elsewhere = json!({"name": "Open data elsewhere", "organizationId": tenant.organization});
    let elsewhere = id(&engine.made(&engine.admin, "/application", elsewhere).await);
    let (status, answer) = engine
        .put(
            &engine.admin,
            &format!("/iot-device/changeApplication/{}", keys[0].0),
            json!({"applicationId": elsewhere}),
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    engine.eventually(&tenant.token, &share, |data| *data == json!([{"raw": 213}, {"error": broken}])).await;

    for (path, message) in [
        ("/open-data-dk-sharing/999999".to_owned(), "Could not find an organization with the id: 999999".to_owned()),
        (
            format!("{path}/data/999999"),
            format!("Could not find dataset with id: 999999 on organization: {}", tenant.organization),
        ),
    ] {
        let (status, answer) = public(&engine, &path).await;
        assert_eq!((status, &answer["message"]), (404, &json!(message)), "{path}");
    }
    // Through another organisation it is not there.
    let other = engine.tenant("Open data B", &["Read"]).await;
    let through_other = share.replace(&format!("/{}/", tenant.organization), &format!("/{}/", other.organization));
    assert_eq!(public(&engine, &through_other).await.0, 404);
    golden.check("open_data");
}

#[tokio::test]
async fn the_flag_of_registration_is_set_by_who_administers_the_organisation() {
    let engine = engine().await;
    let tenant = engine.tenant("Open data C", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(tenant.organization, tenant.application, "Open data C reader", &["Read"]).await;
    let get = format!("/data-target/getOpenDataDkRegistered/{}", tenant.organization);
    let set = format!("/data-target/updateOpenDataDkRegistered/{}", tenant.organization);
    assert_eq!(engine.got(&reader, &get).await, json!(false));
    assert_eq!(engine.put(&reader, &set, json!({})).await.0, 403);
    assert_eq!(engine.put(&tenant.token, &set, json!({})).await, (200, json!(true)));
    assert_eq!(engine.got(&reader, &get).await, json!(true));
}

#[tokio::test]
async fn open_data_dk_is_told_by_mail_and_an_organisation_whose_mail_did_not_leave_is_not_registered() {
    let engine = engine().await;
    let tenant = engine.tenant("Open data D", &["OrganizationApplicationAdmin"]).await;
    let reader = engine.member(tenant.organization, tenant.application, "Open data D reader", &["Read"]).await;
    let mail = |alias: &str, url: &str| json!({"organizationId": tenant.organization, "organizationOddkAlias": alias, "comment": "<b>hi</b>", "sharingUrl": url});
    let (path, url) = ("/data-target/sendOpenDataDkMail", "https://iot.example.org/shared");
    let get = format!("/data-target/getOpenDataDkRegistered/{}", tenant.organization);
    assert_eq!(engine.post(&reader, path, mail("city", url)).await.0, 403);
    let (status, answer) = engine.post(&tenant.token, path, mail("city", "javascript:alert(1)")).await;
    assert_eq!((status, &answer["message"][0]["property"]), (400, &json!("sharingUrl")));
    let (status, answer) = engine.post(&tenant.token, path, mail(REFUSED, url)).await;
    assert_eq!((status, &answer["message"]), (400, &json!("MESSAGE.SEND-MAIL-ERROR")));
    assert_eq!(engine.got(&tenant.token, &get).await, json!(false));

    assert_eq!(engine.post(&tenant.token, path, mail("the-city", url)).await, (201, json!(true)));
    assert_eq!(engine.got(&tenant.token, &get).await, json!(true));
    let mails = engine.smtp.mails.lock().unwrap().clone();
    let mail = mails.iter().find(|mail| mail.contains("the-city")).unwrap_or_else(|| panic!("{mails:?}"));
    assert!(mail.contains("info@opendata.dk") && mail.contains(url), "{mail}");
    // 31: what a user typed is text, not markup.
    assert!(mail.contains("&lt;b&gt;hi&lt;/b&gt;"), "{mail}");
}
