//! Every route of users, groups, organisations, keys and logs against every role: who is let through, and who is not.

use serde_json::{Value, json};

use crate::fixture::{Api, Tenant};

/// Who gets beyond the guard. `U`: an organisation's user administrator, `A` of applications, `G` of gateways, `R` a reader,
/// `N` somebody with no role at all. A global administrator always does, nobody without credentials does.
type Let = &'static str;

fn routes(own: &Tenant) -> Vec<(&'static str, String, Option<Value>, Let)> {
    let (o, g, u) = (&own.organization, &own.group, &own.user);
    let user = json!({"name": "Somebody", "email": "somebody@example.org", "password": "Sesame-11", "active": true});
    let key = json!({"name": "script", "permissionIds": [g]});
    let group = json!({"levels": [{"type": "Read"}], "name": "new", "organizationId": o, "userIds": []});
    let name = Some(json!({"name": "Renamed"}));
    vec![
        ("POST", "/organization".into(), name.clone(), ""),
        ("PUT", format!("/organization/{o}"), name, ""),
        ("DELETE", "/organization/999999".into(), None, ""),
        ("GET", "/organization".into(), None, "U"),
        ("GET", format!("/organization/{o}"), None, "U"),
        ("GET", "/organization/applicationAdmin".into(), None, "A"),
        ("GET", "/organization/gatewayAdmin".into(), None, "G"),
        ("GET", "/organization/minimal".into(), None, "UAGR"),
        ("POST", "/user".into(), Some(user), "U"),
        ("GET", "/user".into(), None, "U"),
        ("GET", "/user/minimal".into(), None, "U"),
        ("GET", format!("/user/{u}"), None, "U"),
        ("PUT", format!("/user/{u}"), Some(json!({"name": "Staff"})), "U"),
        ("GET", format!("/user/organizationUsers/{o}"), None, "U"),
        ("GET", "/user/awaitingUsers".into(), None, "U"),
        ("GET", format!("/user/awaitingUsers/{o}"), None, "U"),
        ("PUT", "/user/rejectUser".into(), Some(json!({"orgId": o, "userIdToReject": u})), "U"),
        ("PUT", "/user/1/hide-welcome".into(), Some(json!({})), "UAGR"),
        ("POST", "/permission".into(), Some(group), "U"),
        ("PUT", format!("/permission/{g}"), Some(json!({"name": "staff"})), "U"),
        ("DELETE", "/permission/999999".into(), None, "U"),
        (
            "PUT",
            "/permission/acceptUser".into(),
            Some(json!({"organizationId": o, "userId": 999_999, "permissionIds": [g]})),
            "U",
        ),
        ("GET", "/permission".into(), None, "UAGRN"),
        ("GET", "/permission/applicationAdmin".into(), None, "UAGRN"),
        ("GET", "/permission/getAllPermissionsWithoutUsers".into(), None, "UAGRN"),
        ("GET", format!("/permission/{g}"), None, "U"),
        ("GET", format!("/permission/{g}/applications"), None, "U"),
        ("GET", format!("/permission/{g}/users"), None, "U"),
        ("POST", "/api-key".into(), Some(key.clone()), "U"),
        ("GET", format!("/api-key?organizationId={o}"), None, "U"),
        ("GET", "/api-key/999999".into(), None, "U"),
        ("PUT", "/api-key/999999".into(), Some(key), "U"),
        ("DELETE", "/api-key/999999".into(), None, "U"),
        ("GET", "/kombitCreation/minimal".into(), None, "UAGRN"),
        ("GET", "/kombitCreation/minimalUsers".into(), None, "UAGRN"),
        ("PUT", "/kombitCreation/createNewKombitUser".into(), Some(json!({})), "UAGRN"),
        ("PUT", "/kombitCreation/updateUserOrgs".into(), Some(json!({})), "UAGRN"),
        ("GET", "/auth/me".into(), None, "UAGRN"),
        ("GET", "/auth/profile".into(), None, "UAGRN"),
        ("GET", "/change-log".into(), None, "U"),
        ("GET", "/system-log".into(), None, ""),
    ]
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should_and_nobody_else() {
    let api = Api::start().await;
    let own = api.tenant("Aarhus", &["OrganizationUserAdmin"]).await;
    let staff = [
        ("U", "OrganizationUserAdmin"),
        ("A", "OrganizationApplicationAdmin"),
        ("G", "OrganizationGatewayAdmin"),
        ("R", "Read"),
        ("N", ""),
    ];
    let mut tokens = Vec::new();
    for (letter, role) in staff {
        let mut groups = Vec::new();
        if !role.is_empty() {
            let body =
                json!({"levels": [{"type": role}], "name": role, "organizationId": own.organization, "userIds": []});
            groups.push(api.made("/permission", body).await["id"].clone());
        }
        let email = format!("{}@example.org", letter.to_lowercase());
        api.made(
            "/user",
            json!({"name": letter, "email": email, "password": "Sesame-11", "active": true, "permissionIds": groups}),
        )
        .await;
        tokens.push((letter, api.log_in(&email, "Sesame-11").await));
    }
    for (method, path, body, let_in) in routes(&own) {
        let (status, answer) = api.call(method, &path, None, body.clone()).await;
        assert_eq!(status, 401, "{method} {path}: {answer}");
        for (letter, token) in &tokens {
            let (status, answer) = api.call(method, &path, Some(token), body.clone()).await;
            let is_in = ![401, 403].contains(&status);
            // An organisation is not there for whom it does not concern.
            let is_hidden = status == 404 && !let_in.contains(letter);
            assert_eq!(is_in && !is_hidden, let_in.contains(letter), "{letter} {method} {path}: {status} {answer}");
            assert!(status < 500, "{letter} {method} {path}: {status}");
        }
        let (status, answer) = api.call(method, &path, Some(&api.admin), body).await;
        assert!(![401, 403].contains(&status) && status < 500, "{method} {path}: {status} {answer}");
    }
}
