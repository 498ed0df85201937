//! Applications whose devices fell silent: the time of a device's last message stands in the database here as no test could wait
//! for it.

use serde_json::{Value, json};

use crate::fixture::Api;

async fn device(api: &Api, application: &Value, name: &str) -> Value {
    let body = json!({"name": name, "type": "GENERIC_HTTP", "applicationId": application});
    api.made("/iot-device", body).await["id"].clone()
}

/// As the device stage writes it: an upsert.
async fn heard(api: &Api, device: &Value, hours_ago: i32) {
    let sql = "INSERT INTO device_state AS s (device_id, latest_received_at, latest_event_at) \
               SELECT $1, now() - make_interval(hours => $2), now() - make_interval(hours => $2) \
               ON CONFLICT (device_id) DO UPDATE SET latest_received_at = excluded.latest_received_at";
    let client = api.store.pool().get().await.unwrap();
    client.execute(sql, &[&device.as_i64().unwrap(), &hours_ago]).await.unwrap();
}

#[tokio::test]
async fn an_application_is_in_alert_while_a_device_of_it_has_been_silent_for_a_day() {
    let api = Api::start().await;
    let organization = api.made("/organization", json!({"name": "Aarhus"})).await["id"].clone();
    let mut applications = Vec::new();
    for name in ["A", "B"] {
        let id = api.made("/application", json!({"name": name, "organizationId": organization})).await["id"].clone();
        let target = json!({"name": "Hub", "type": "HTTP_PUSH", "applicationId": id, "url": "https://h", "timeout": 1});
        api.made("/data-target", target).await;
        applications.push(id);
    }
    let [a, b] = [&applications[0], &applications[1]];
    let checks = || async {
        let (_, list) = api.get(&format!("/application?organizationId={organization}&orderOn=name&sort=asc")).await;
        let (_, dashboard) = api.get(&format!("/application/{organization}/application-dashboard-data")).await;
        let check = |at: usize| list["data"][at]["statusCheck"].as_str().unwrap().to_owned();
        (check(0), check(1), dashboard["withError"].as_i64().unwrap())
    };
    let (stable, alert) = ("stable".to_owned(), "alert".to_owned());
    let (first, second) = (device(&api, a, "first").await, device(&api, a, "second").await);
    assert_eq!(checks().await, (stable.clone(), stable.clone(), 0), "devices that never sent anything are not silent");
    heard(&api, &first, 1).await;
    heard(&api, &second, 23).await;
    assert_eq!(checks().await, (stable.clone(), stable.clone(), 0));
    heard(&api, &second, 25).await;
    assert_eq!(checks().await, (alert.clone(), stable.clone(), 1));
    // It takes its silence along when it moves.
    let (status, answer) =
        api.put(&format!("/iot-device/changeApplication/{second}"), json!({"applicationId": b})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(checks().await, (stable.clone(), alert, 1));
    heard(&api, &second, 0).await;
    assert_eq!(checks().await, (stable.clone(), stable, 0));
}
