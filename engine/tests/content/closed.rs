//! Weaknesses of the reference (control-plane 9.2 to 9.5) that are closed here, each as a test that fails on its behaviour.

use serde_json::{Value, json};

use crate::engine::{CONNECTIONS, decoder, engine, http_device, http_target, id};
use crate::server::Server;

/// 19: any caller got every device of any organisation, keys included.
#[tokio::test]
async fn an_organisations_devices_are_for_those_who_may_see_them() {
    let engine = engine().await;
    let own = engine.tenant("Closed 19 own", &["Read"]).await;
    let other = engine.tenant("Closed 19 other", &["OrganizationApplicationAdmin"]).await;
    engine.made(&other.token, "/iot-device", http_device("Theirs", other.application)).await;
    let path = |organization: i64| format!("/application/{organization}/iot-devices-org");
    assert_eq!(engine.get(&own.token, &path(other.organization)).await.0, 403);
    assert_eq!(engine.got(&own.token, &path(own.organization)).await, json!([]));
    let seen = engine.got(&other.token, &path(other.organization)).await;
    assert_eq!((seen.as_array().unwrap().len(), &seen[0]["apiKey"]), (1, &json!("********")));
}

/// 22: a connection showed other tenants the secrets of its target; logs, models and devices of a decoder were anybody's.
#[tokio::test]
async fn a_shared_decoder_does_not_show_whose_devices_use_it() {
    let engine = engine().await;
    let own = engine.tenant("Closed 22 own", &["OrganizationApplicationAdmin"]).await;
    let other = engine.tenant("Closed 22 other", &["OrganizationApplicationAdmin"]).await;
    let shared = decoder("Shared", own.organization, "function decode(p) { return p; }");
    let shared = id(&engine.made(&own.token, "/payload-decoder", shared).await);
    for tenant in [&own, &other] {
        let device = id(&engine.made(&tenant.token, "/iot-device", http_device("Room", tenant.application)).await);
        let target = http_target("Hub", tenant.application, "http://127.0.0.1:9");
        let target = id(&engine.made(&tenant.token, "/data-target", target).await);
        let body = json!({"iotDeviceIds": [device], "payloadDecoderId": shared, "dataTargetId": target});
        engine.made(&tenant.token, CONNECTIONS, body).await;
    }
    for tenant in [&own, &other] {
        let devices = engine.got(&tenant.token, &format!("/iot-device/minimalByPayloadDecoder/{shared}")).await;
        assert_eq!(
            (&devices["count"], &devices["data"][0]["organizationId"]),
            (&json!(1), &json!(tenant.organization))
        );
        let connections = engine.got(&tenant.token, &format!("{CONNECTIONS}/byPayloadDecoder/{shared}")).await;
        assert_eq!(connections["count"], 1);
    }
    let everything = engine.got(&engine.admin, &format!("/iot-device/minimalByPayloadDecoder/{shared}")).await;
    assert_eq!(everything["count"], 2);
}

/// 24: an application, a device or a copied device was moved into a tenant that never agreed.
#[tokio::test]
async fn nothing_is_moved_to_or_taken_from_another_tenant() {
    let engine = engine().await;
    let own = engine.tenant("Closed 24 own", &["OrganizationApplicationAdmin"]).await;
    let other = engine.tenant("Closed 24 other", &["OrganizationApplicationAdmin"]).await;
    let theirs = id(&engine.made(&other.token, "/iot-device", http_device("Theirs", other.application)).await);
    let mine = id(&engine.made(&own.token, "/iot-device", http_device("Mine", own.application)).await);
    let target = http_target("Hub", own.application, "http://127.0.0.1:9");
    let target = id(&engine.made(&own.token, "/data-target", target).await);
    let connection = json!({"iotDeviceIds": [mine], "dataTargetId": target});
    let connection = id(&engine.made(&own.token, CONNECTIONS, connection).await);
    let mut into_other = http_device("Mine", other.application);
    into_other["id"] = json!(mine);
    for (path, body) in [
        (format!("/application/{}", own.application), json!({"name": "x", "organizationId": other.organization})),
        (
            format!("/application/updateApplicationOrganization/{}", own.application),
            json!({"organizationId": other.organization, "permissionIds": []}),
        ),
        (
            format!("/application/updateApplicationOrganization/{}", other.application),
            json!({"organizationId": own.organization, "permissionIds": []}),
        ),
        (format!("/iot-device/{mine}"), into_other),
        (format!("/iot-device/changeApplication/{mine}"), json!({"applicationId": other.application})),
        (format!("/data-target/{target}"), http_target("x", other.application, "http://127.0.0.1:9")),
        (format!("{CONNECTIONS}/appendCopiedDevice/{connection}"), json!({"deviceId": theirs})),
        (format!("{CONNECTIONS}/{connection}"), json!({"iotDeviceIds": [theirs], "dataTargetId": target})),
    ] {
        let (status, answer) = engine.put(&own.token, &path, body.clone()).await;
        assert_eq!(status, 403, "{path} {body}: {answer}");
    }
    // 11: an id that is no number was no check at all.
    let path = format!("/iot-device/changeApplication/{mine}");
    let (status, answer) = engine.put(&own.token, &path, json!({"applicationId": other.application.to_string()})).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(engine.got(&own.token, &format!("/iot-device/{mine}")).await["application"]["id"], own.application);
}

/// 25: whoever was allowed no application was shown all of them.
#[tokio::test]
async fn a_group_without_applications_sees_none() {
    let engine = engine().await;
    let tenant = engine.tenant("Closed 25", &["OrganizationApplicationAdmin"]).await;
    engine.made(&tenant.token, "/iot-device", http_device("Room", tenant.application)).await;
    let group =
        json!({"levels": [{"type": "Read"}], "name": "Nothing", "organizationId": tenant.organization, "userIds": []});
    let group = id(&engine.made(&engine.admin, "/permission", group).await);
    let user = json!({"name": "N", "email": "nothing25@example.org", "password": "Sesame-11", "active": true, "permissionIds": [group]});
    engine.made(&engine.admin, "/user", user).await;
    let token = engine.log_in("nothing25@example.org", "Sesame-11").await;
    let organization = tenant.organization;
    for list in ["/application", &format!("/application?organizationId={organization}"), "/data-target", CONNECTIONS] {
        let answer = engine.got(&token, list).await;
        assert_eq!((&answer["count"], &answer["data"]), (&json!(0), &json!([])), "{list}");
    }
    let dashboard = engine.got(&token, &format!("/application/{organization}/application-dashboard-data")).await;
    assert_eq!(dashboard, json!({"total": 0, "withError": 0, "totalDevices": 0}));
    assert_eq!(engine.got(&token, &format!("/application/{organization}/iot-devices-org")).await, json!([]));
}

/// 26: an application's name was unique everywhere, so that trying told the names of others.
#[tokio::test]
async fn a_name_that_another_tenant_has_is_free() {
    let engine = engine().await;
    let own = engine.tenant("Closed 26 own", &["OrganizationApplicationAdmin"]).await;
    let other = engine.tenant("Closed 26 other", &["OrganizationApplicationAdmin"]).await;
    let body = json!({"name": "Closed 26 other app", "organizationId": own.organization});
    let mine = id(&engine.made(&own.token, "/application", body.clone()).await);
    let taken = (400, json!("MESSAGE.NAME-INVALID-OR-ALREADY-IN-USE"));
    let (status, answer) = engine.post(&own.token, "/application", body).await;
    assert_eq!((status, answer["message"].clone()), taken, "within an organisation it is not");
    let to = json!({"organizationId": other.organization, "permissionIds": []});
    let path = format!("/application/updateApplicationOrganization/{mine}");
    let (status, answer) = engine.put(&engine.admin, &path, to).await;
    assert_eq!((status, answer["message"].clone()), taken, "nor where it would be moved to");
}

/// 31: cells went into the CSV file as they were, so that a spreadsheet ran them.
#[tokio::test]
async fn a_csv_cell_is_neither_a_formula_nor_the_end_of_its_row() {
    let engine = engine().await;
    let tenant = engine.tenant("Closed 31", &["OrganizationApplicationAdmin"]).await;
    let mut device = http_device("=HYPERLINK(\"http://evil\")", tenant.application);
    device["comment"] = json!("one,\ntwo");
    engine.made(&tenant.token, "/iot-device", device).await;
    let path = format!("/iot-device/getDevicesMetadataCsv/{}", tenant.application);
    let csv = engine.got(&tenant.token, &path).await;
    let csv = csv.as_str().unwrap();
    assert!(csv.contains("\"'=HYPERLINK(\"\"http://evil\"\")\""), "{csv}");
    assert!(csv.contains("\"one,\ntwo\""), "{csv}");
    // 32: 403 was swallowed as an empty 200.
    let stranger = engine.tenant("Closed 31 other", &["Read"]).await;
    assert_eq!(engine.get(&stranger.token, &path).await.0, 403);
}

/// 34: a filter by status check was applied after paging, so that pages were short and the count was another list's.
#[tokio::test]
async fn a_filtered_list_is_counted_as_it_is_filtered() {
    let engine = engine().await;
    let tenant = engine.tenant("Closed 34", &["OrganizationUserAdmin"]).await;
    let receiver = Server::receiver();
    for n in 0..6 {
        let body = json!({"name": format!("Closed 34 nr {n}"), "organizationId": tenant.organization});
        let application = id(&engine.made(&engine.admin, "/application", body).await);
        // Every other one has a target, which is what makes it stable.
        if n % 2 == 0 {
            engine.made(&engine.admin, "/data-target", http_target("Hub", application, &receiver.url())).await;
        }
    }
    // The tenant's first application has no target either.
    for (check, count) in [("stable", 3), ("alert", 4), ("null", 7)] {
        let path = format!("/application?organizationId={}&statusCheck={check}&limit=2&offset=0", tenant.organization);
        let page = engine.got(&tenant.token, &path).await;
        let rows = page["data"].as_array().unwrap();
        assert_eq!((&page["count"], rows.len()), (&json!(count), 2), "{check}");
        assert!(check == "null" || rows.iter().all(|row| row["statusCheck"] == check), "{check}: {page}");
    }
    let beyond = format!("/application?organizationId={}&statusCheck=alert&limit=2&offset=100", tenant.organization);
    assert_eq!(engine.got(&tenant.token, &beyond).await, json!({"data": [], "count": 4}));
}

/// Checklist 6: the "change application" dialog asks without an organisation, and the reference answers a global administrator
/// with nothing.
#[tokio::test]
async fn a_global_administrator_sees_all_applications_without_naming_an_organisation() {
    let engine = engine().await;
    let tenant = engine.tenant("Closed 6", &["Read"]).await;
    let path = "/application?limit=1000&offset=0&sort=desc&orderOn=id&status=null&statusCheck=null&owner=null&organizationId=null";
    let all = engine.got(&engine.admin, path).await;
    let found: Vec<&Value> =
        all["data"].as_array().unwrap().iter().filter(|row| row["id"] == tenant.application).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0]["deviceTypes"].is_array());
}
