//! Search in PostgreSQL: one statement over every kind of row, each found through its own index.
//!
//! Names go through trigram indexes, texts shorter than a trigram through an index of the single characters and pairs in a name,
//! identifiers through the indexes that devices are looked up by. A tenant's applications are known before his devices are looked at.
//! Each kind contributes no more rows than the page reaches, and is counted up to a bound, so that a text that a million names hold
//! costs no more than one that some thousand hold.

use async_trait::async_trait;
use sluse_schema::id::{ApplicationId, DeviceKey, OrganizationId};
use sluse_schema::port::admin::search::{Found, Hit, NUM_COUNTED_MAX, SearchQuery, SearchStore};
use sluse_schema::port::admin::{AdminError, Listed, Stamps};
use tokio_postgres::Row;

use super::gateway::organization_ids;
use super::related::visible_ids;
use super::{PgAdminStore, pg};

/// What a text may be besides a part of a name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Identifiers {
    dev_eui: Option<String>,
    /// Upper case.
    sigfox_id: Option<String>,
    api_key_hash: Option<Vec<u8>>,
    /// Shorter than what the trigram index can find.
    is_short: bool,
}

/// Characters of a text that the trigram index finds.
const TRIGRAM_CHARS: usize = 3;

impl Identifiers {
    fn of(text: &str) -> Self {
        let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_uuid = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
        Self {
            dev_eui: (is_hex && text.len() == 16).then(|| text.to_ascii_lowercase()),
            sigfox_id: (is_hex && (4..=12).contains(&text.len())).then(|| text.to_ascii_uppercase()),
            api_key_hash: match DeviceKey::of_api_key(text) {
                DeviceKey::ApiKey(hash) if is_uuid => Some(hash.to_vec()),
                _ => None,
            },
            is_short: text.chars().count() < TRIGRAM_CHARS,
        }
    }

    /// The conditions on `iot_device d` that can hold at all, each with an index of its own: `$1` to `$4`, and `$11`,
    /// the text itself.
    fn conditions(&self) -> String {
        let mut conditions = match self.is_short {
            // For a short text the trigram index would be read whole: an expression keeps it out.
            true => "name_grams(d.name) @> ARRAY[lower($11)] AND d.name || '' ILIKE $1".to_owned(),
            false => "d.name ILIKE $1".to_owned(),
        };
        for (is_asked, condition) in [
            (self.dev_eui.is_some(), "d.device_eui = $2"),
            (self.sigfox_id.is_some(), "(d.type = 'SIGFOX' AND upper(d.settings->>'deviceId') = $3)"),
            (self.api_key_hash.is_some(), "d.api_key_hash = $4"),
        ] {
            if is_asked {
                conditions.push_str(" OR ");
                conditions.push_str(condition);
            }
        }
        conditions
    }
}

/// `%text%` for ILIKE, in which nothing of the text is a wildcard.
fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// Gateways that somebody owns, by a part of their name or id, within the organisations of `$10` (NULL: all).
const GATEWAYS: &str = "gateway g WHERE (g.name ILIKE $1 OR g.gateway_id ILIKE $1) AND g.organization_id IS NOT NULL \
     AND ($10::bigint[] IS NULL OR g.organization_id = ANY($10))";

/// Every kind's part of the statement: the same columns from each. Devices are found in any order first: if they are few, they are all
/// there is to sort; only of many the newest are looked for in their order, which would read the whole table for a few.
fn statement(identifiers: &Identifiers, is_everything_visible: bool) -> String {
    let visible = |id: &str, organization: &str| match is_everything_visible {
        true => "true".to_owned(),
        false => format!("({organization} = ANY($5::bigint[]) OR {id} = ANY($6::bigint[]))"),
    };
    let devices_visible = match is_everything_visible {
        true => "true".to_owned(),
        // An OR over two tables could use neither's index.
        false => format!(
            "d.application_id = ANY(ARRAY(SELECT v.id FROM application v WHERE {}))",
            visible("v.id", "v.organization_id")
        ),
    };
    let device_hits = identifiers.conditions();
    let devices = format!("({device_hits}) AND {devices_visible}");
    let applications = format!("application a WHERE a.name ILIKE $1 AND {}", visible("a.id", "a.organization_id"));
    format!(
        "WITH found AS MATERIALIZED (SELECT d.id FROM iot_device d WHERE {devices} LIMIT $9), \
         counted AS MATERIALIZED (SELECT count(*) AS num FROM found), \
         newest AS ( \
            SELECT id FROM found WHERE (SELECT num FROM counted) < $9 \
            UNION ALL \
            (SELECT d.id FROM iot_device d WHERE (SELECT num FROM counted) >= $9 AND {devices} \
             ORDER BY d.updated_at DESC, d.id DESC LIMIT $7 + $8)), \
         hits AS ( \
            (SELECT 'Application' AS kind, a.id, a.name, a.organization_id, a.created_at, a.updated_at, NULL::bigint AS application_id, \
                    NULL::text AS device_type, NULL::text AS device_eui, NULL::text AS sigfox_id, false AS has_api_key \
             FROM {applications} ORDER BY a.updated_at DESC, a.id DESC LIMIT $7 + $8) \
            UNION ALL \
            (SELECT 'IoTDevice', d.id, d.name, a.organization_id, d.created_at, d.updated_at, d.application_id, d.type, \
                    COALESCE(d.settings->>'deviceEUI', d.device_eui), \
                    CASE WHEN d.type = 'SIGFOX' THEN d.settings->>'deviceId' END, d.api_key_hash IS NOT NULL \
             FROM newest JOIN iot_device d ON d.id = newest.id JOIN application a ON a.id = d.application_id \
             ORDER BY d.updated_at DESC, d.id DESC LIMIT $7 + $8) \
            UNION ALL \
            (SELECT 'Gateway', g.id, g.name, g.organization_id, g.created_at, g.updated_at, NULL, NULL, g.gateway_id, NULL, false \
             FROM {GATEWAYS} ORDER BY g.updated_at DESC, g.id DESC LIMIT $7 + $8)), \
         page AS (SELECT * FROM hits ORDER BY updated_at DESC, id DESC LIMIT $7 OFFSET $8) \
         SELECT p.*, n.num_all FROM ( \
            SELECT (SELECT count(*) FROM (SELECT 1 FROM {applications} LIMIT $9) c) \
                 + (SELECT num FROM counted) \
                 + (SELECT count(*) FROM (SELECT 1 FROM {GATEWAYS} LIMIT $9) c) AS num_all) n \
         LEFT JOIN page p ON true ORDER BY p.updated_at DESC, p.id DESC"
    )
}

fn found_of(row: &Row) -> Result<Found, AdminError> {
    let kind: &str = row.try_get("kind").map_err(pg)?;
    let hit = match kind {
        "Application" => Hit::Application,
        "Gateway" => Hit::Gateway { gateway: row.try_get("device_eui").map_err(pg)? },
        _ => Hit::Device {
            application: ApplicationId(row.try_get("application_id").map_err(pg)?),
            kind: row.try_get("device_type").map_err(pg)?,
            device_eui: row.try_get("device_eui").map_err(pg)?,
            sigfox_id: row.try_get("sigfox_id").map_err(pg)?,
            has_api_key: row.try_get("has_api_key").map_err(pg)?,
        },
    };
    Ok(Found {
        id: row.try_get("id").map_err(pg)?,
        name: row.try_get("name").map_err(pg)?,
        organization: OrganizationId(row.try_get("organization_id").map_err(pg)?),
        stamps: Stamps {
            created_at: row.try_get("created_at").map_err(pg)?,
            updated_at: row.try_get("updated_at").map_err(pg)?,
            created_by: None,
            updated_by: None,
        },
        hit,
    })
}

#[async_trait]
impl SearchStore for PgAdminStore {
    async fn search(&self, query: &SearchQuery) -> Result<Listed<Found>, AdminError> {
        let identifiers = Identifiers::of(&query.text);
        let (organizations, applications) = visible_ids(&query.visible);
        let sql = statement(&identifiers, organizations.is_none());
        let client = self.client().await?;
        // Parameters that a statement does not name still need a type.
        let types = {
            use tokio_postgres::types::Type;
            [
                Type::TEXT,
                Type::TEXT,
                Type::TEXT,
                Type::BYTEA,
                Type::INT8_ARRAY,
                Type::INT8_ARRAY,
                Type::INT8,
                Type::INT8,
                Type::INT8,
                Type::INT8_ARRAY,
                Type::TEXT,
            ]
        };
        // Planned for this very text: how many names hold it decides which index is right.
        let statement = client.prepare_typed(&sql, &types).await.map_err(pg)?;
        let rows = client
            .query(
                &statement,
                &[
                    &pattern(&query.text),
                    &identifiers.dev_eui,
                    &identifiers.sigfox_id,
                    &identifiers.api_key_hash,
                    &organizations.unwrap_or_default(),
                    &applications,
                    &query.limit,
                    &query.offset,
                    &NUM_COUNTED_MAX,
                    &organization_ids(&query.gateways_of),
                    &query.text,
                ],
            )
            .await
            .map_err(pg)?;
        let num_all = rows.first().map_or(0, |row| row.get("num_all"));
        let hits = rows.iter().filter(|row| row.get::<_, Option<i64>>("id").is_some());
        Ok(Listed { rows: hits.map(found_of).collect::<Result<_, _>>()?, num_all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_pattern() {
        assert_eq!(pattern("100 %_\\"), "%100 \\%\\_\\\\%");
    }

    #[test]
    fn identifiers_are_told_by_their_form() {
        let eui = Identifiers::of("A81758FFFE000001");
        assert_eq!((eui.dev_eui.as_deref(), eui.sigfox_id, eui.api_key_hash), (Some("a81758fffe000001"), None, None));
        assert_eq!(Identifiers::of("1d1d1d").sigfox_id.as_deref(), Some("1D1D1D"));
        assert_eq!(Identifiers::of("abc"), Identifiers::default());
        assert_eq!(Identifiers::of("Room"), Identifiers::default());
        assert_eq!(["æø", "æøå"].map(|text| Identifiers::of(text).is_short), [true, false], "characters, not bytes");
        assert!(Identifiers::of("31DAB038-6a3c-4a70-9a3e-0f7d7f6f0a11").api_key_hash.is_some());
    }
}
