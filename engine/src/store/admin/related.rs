//! What several resources need of rows that are not theirs: organisations and applications by id, stamps, visibility, order.

use deadpool_postgres::GenericClient;
use sluse_schema::id::{ApplicationId, OrganizationId};
use sluse_schema::permission::Visible;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::admin::{AdminError, ApplicationRow, OrganizationRow, Page, Stamps};
use tokio_postgres::Row;

use super::pg;

pub(super) fn application_resource(application: ApplicationId, organization: OrganizationId) -> Resource {
    Resource::Application { application, organization }
}

/// Whether a further permit, besides the one a write was begun under, is for writing this.
pub(super) fn covers(permit: Option<&Permit>, resource: &Resource) -> Result<(), AdminError> {
    match permit {
        Some(permit) if permit.covers_write(resource) => Ok(()),
        _ => Err(AdminError::NotCovered),
    }
}

/// The organisation of an application, which is held where it is until the end of the transaction.
pub(super) async fn organization_of(
    client: &impl GenericClient,
    application: ApplicationId,
) -> Result<OrganizationId, AdminError> {
    let row = client
        .query_opt("SELECT organization_id FROM application WHERE id = $1 FOR SHARE", &[&application.0])
        .await
        .map_err(pg)?
        .ok_or(AdminError::BadReference("application"))?;
    Ok(OrganizationId(row.try_get(0).map_err(pg)?))
}

/// Stamps of a row that has the four columns under their own names.
pub(super) fn stamps(row: &Row) -> Result<Stamps, AdminError> {
    Ok(Stamps {
        created_at: row.try_get("created_at").map_err(pg)?,
        updated_at: row.try_get("updated_at").map_err(pg)?,
        created_by: row.try_get("created_by").map_err(pg)?,
        updated_by: row.try_get("updated_by").map_err(pg)?,
    })
}

/// Organisations (`None`: everything is visible) and applications, for
/// `$1 IS NULL OR organization_id = ANY($1) OR application_id = ANY($2)`.
pub(super) fn visible_ids(visible: &Visible) -> (Option<Vec<i64>>, Vec<i64>) {
    match visible {
        Visible::All => (None, Vec::new()),
        Visible::Some { organizations, applications } => {
            (Some(organizations.iter().map(|o| o.0).collect()), applications.iter().map(|a| a.0).collect())
        }
    }
}

/// `ORDER BY` of a page: a column of `names` (API name, SQL), or `id`, which also settles ties.
pub(super) fn order_by(page: &Page, names: &[(&str, &str)], id: &str) -> String {
    let direction = if page.is_descending { "DESC" } else { "ASC" };
    let known = page.order_on.as_deref().and_then(|asked| names.iter().find(|(name, _)| *name == asked));
    match known {
        Some((_, column)) => format!("{column} {direction}, {id} {direction}"),
        None => format!("{id} {direction}"),
    }
}

pub(super) async fn applications_by_id(
    client: &impl GenericClient,
    ids: &[i64],
) -> Result<Vec<ApplicationRow>, AdminError> {
    let rows = client
        .query(
            "SELECT a.*, ARRAY(SELECT permission_id FROM permission_application p WHERE p.application_id = a.id \
             ORDER BY permission_id) AS permission_ids FROM application a WHERE a.id = ANY($1) ORDER BY a.id",
            &[&ids],
        )
        .await
        .map_err(pg)?;
    rows.iter()
        .map(|row| {
            Ok(ApplicationRow {
                id: ApplicationId(row.try_get("id").map_err(pg)?),
                organization_id: OrganizationId(row.try_get("organization_id").map_err(pg)?),
                name: row.try_get("name").map_err(pg)?,
                description: row.try_get("description").map_err(pg)?,
                status: row.try_get("status").map_err(pg)?,
                start_date: row.try_get("start_date").map_err(pg)?,
                end_date: row.try_get("end_date").map_err(pg)?,
                category: row.try_get("category").map_err(pg)?,
                owner: row.try_get("owner").map_err(pg)?,
                contact_person: row.try_get("contact_person").map_err(pg)?,
                contact_email: row.try_get("contact_email").map_err(pg)?,
                contact_phone: row.try_get("contact_phone").map_err(pg)?,
                personal_data: row.try_get("personal_data").map_err(pg)?,
                hardware: row.try_get("hardware").map_err(pg)?,
                chirpstack_id: row.try_get("chirpstack_id").map_err(pg)?,
                controlled_properties: row.try_get("controlled_properties").map_err(pg)?,
                device_types: row.try_get("device_types").map_err(pg)?,
                permission_ids: row.try_get("permission_ids").map_err(pg)?,
                stamps: stamps(row)?,
            })
        })
        .collect()
}

pub(super) async fn organizations_by_id(
    client: &impl GenericClient,
    ids: &[i64],
) -> Result<Vec<OrganizationRow>, AdminError> {
    let rows = client
        .query(
            "SELECT id, name, open_data_dk_registered, created_at, updated_at, created_by, updated_by FROM organization \
             WHERE id = ANY($1) ORDER BY id",
            &[&ids],
        )
        .await
        .map_err(pg)?;
    rows.iter()
        .map(|row| {
            Ok(OrganizationRow {
                id: OrganizationId(row.try_get("id").map_err(pg)?),
                name: row.try_get("name").map_err(pg)?,
                is_open_data_dk_registered: row.try_get("open_data_dk_registered").map_err(pg)?,
                stamps: stamps(row)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_taken_from_the_list_and_never_from_the_request() {
        let page = |order_on: &str, is_descending| Page {
            order_on: Some(order_on.to_owned()),
            is_descending,
            ..Page::first(10)
        };
        let names = [("name", "t.name")];
        assert_eq!(order_by(&page("name", true), &names, "t.id"), "t.name DESC, t.id DESC");
        assert_eq!(order_by(&page("name; DROP TABLE data_target", false), &names, "t.id"), "t.id ASC");
    }

    #[test]
    fn nothing_visible_is_not_everything() {
        let nothing = Visible::Some { organizations: Vec::new(), applications: Vec::new() };
        assert_eq!(visible_ids(&nothing), (Some(Vec::new()), Vec::new()));
        assert_eq!(visible_ids(&Visible::All).0, None);
    }
}
