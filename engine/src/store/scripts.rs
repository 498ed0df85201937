//! Decoders' sources, shared: ten thousand devices of one decoder hold one text.
//! Limit: [`NUM_SCRIPTS_MAX`] decoders; the least used ones are read again when they are needed.

use std::sync::Arc;

use quick_cache::sync::Cache;
use sluse_schema::device::{DecoderScript, Dialect};
use sluse_schema::id::DecoderId;
use tokio_postgres::types::Type;

use super::error::WorkError;

/// How many decoders are kept.
const NUM_SCRIPTS_MAX: usize = 1024;

/// Scripts by decoder, each with the row version it was read at.
pub struct ScriptCache(Cache<i64, (u32, Arc<DecoderScript>)>);

impl Default for ScriptCache {
    fn default() -> Self {
        Self(Cache::new(NUM_SCRIPTS_MAX))
    }
}

impl std::fmt::Debug for ScriptCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScriptCache({})", self.0.len())
    }
}

impl ScriptCache {
    /// The script of this decoder, if it was read at this version of its row.
    pub fn get(&self, decoder: i64, row_version: u32) -> Option<Arc<DecoderScript>> {
        self.0.get(&decoder).filter(|(version, _)| *version == row_version).map(|(_, script)| script)
    }

    /// Reads these decoders and keeps them; one that is gone is missing.
    pub async fn load(
        &self,
        client: &deadpool_postgres::ClientWrapper,
        decoders: &[i64],
    ) -> Result<Vec<Arc<DecoderScript>>, WorkError> {
        let statement = client
            .prepare_typed_cached(
                "SELECT id, xmin, decoding_function, dialect FROM payload_decoder WHERE id = ANY($1)",
                &[Type::INT8_ARRAY],
            )
            .await?;
        let rows = client.query(&statement, &[&decoders]).await?;
        let mut scripts = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, source, dialect): (i64, String, Option<String>) = (row.get(0), row.get(2), row.get(3));
            let version: Xid = row.get(1);
            let script =
                Arc::new(DecoderScript::new(DecoderId(id), source, dialect.as_deref().and_then(Dialect::of_str)));
            self.0.insert(id, (version.0, script.clone()));
            scripts.push(script);
        }
        Ok(scripts)
    }
}

/// PostgreSQL's transaction id: the version of a row, new with every change of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid(pub u32);

impl<'a> tokio_postgres::types::FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(u32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }
}
