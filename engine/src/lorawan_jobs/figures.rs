//! Gateways' figures of today: packets received and sent, and when they were last heard.

use chrono::NaiveDate;
use futures_util::StreamExt;
use futures_util::stream;
use sluse_schema::port::admin::gateway::{GatewayAdminStore, GatewayFigures};
use sluse_schema::port::network_server::KnownGateway;

use super::LorawanJobs;

/// Gateways asked about at once.
const NUM_ASKED_MAX: usize = 16;
/// Rows written by one statement.
const NUM_ROWS_MAX: usize = 1000;

impl LorawanJobs {
    pub(super) async fn fetch_figures(&self, known: &[KnownGateway], today: NaiveDate) -> Result<(), String> {
        let asked: Vec<_> = known.iter().map(|gateway| self.figures_of(gateway.clone(), today)).collect();
        let figures: Vec<GatewayFigures> = stream::iter(asked).buffer_unordered(NUM_ASKED_MAX).collect().await;
        for chunk in figures.chunks(NUM_ROWS_MAX) {
            self.admin.store_gateway_figures(chunk).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
    async fn figures_of(&self, gateway: KnownGateway, today: NaiveDate) -> GatewayFigures {
        // One whose figures cannot be had is known to have been heard all the same.
        let day = self.network.gateway_days(gateway.id, today).await.ok().and_then(|days| days.last().copied());
        GatewayFigures {
            gateway: gateway.id,
            num_received: day.map_or(0, |day| day.num_received as i64),
            num_sent: day.map_or(0, |day| day.num_sent as i64),
            last_seen_at: gateway.last_seen_at,
        }
    }
}
