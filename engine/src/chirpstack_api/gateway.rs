//! Gateways in ChirpStack.

use chirpstack_api::api::gateway_service_client::GatewayServiceClient;
use chirpstack_api::api::{
    CreateGatewayRequest, DeleteGatewayRequest, Gateway, GetGatewayMetricsRequest, GetGatewayRequest,
    ListGatewaysRequest, UpdateGatewayRequest,
};
use chirpstack_api::common::{Aggregation, Location, LocationSource};
use chrono::{NaiveDate, Utc};
use sluse_schema::id::GatewayId;
use sluse_schema::port::network_server::{Answer, GatewayDay, KnownGateway, NetworkGateway};

use super::{ChirpstackApi, PAGE_ROWS, convert, found, gone, metric};

/// Seconds between a gateway's statistics.
const STATS_INTERVAL_S: u32 = 30;
/// ChirpStack's own default; from 4.20 it refuses an update without one.
const DOWNLINK_PRIORITY: u32 = 10;

fn gateway_to(gateway: &NetworkGateway, mut message: Gateway) -> Gateway {
    message.gateway_id = gateway.id.to_string();
    message.name = gateway.name.clone();
    message.description = gateway.description.clone();
    message.location = Some(Location {
        latitude: gateway.latitude,
        longitude: gateway.longitude,
        altitude: gateway.altitude,
        source: LocationSource::Config.into(),
        ..message.location.unwrap_or_default()
    });
    message.tags = convert::tags_to(&gateway.tags);
    if message.stats_interval == 0 {
        message.stats_interval = STATS_INTERVAL_S;
    }
    if message.downlink_priority == 0 {
        message.downlink_priority = DOWNLINK_PRIORITY;
    }
    message
}

impl ChirpstackApi {
    fn gateways_client(&self) -> GatewayServiceClient<tonic::transport::Channel> {
        GatewayServiceClient::new(self.channel())
    }

    pub(super) async fn gateways_read(&self) -> Answer<Vec<KnownGateway>> {
        let tenant_id = self.tenant().await?;
        let mut known = Vec::new();
        loop {
            let offset = u32::try_from(known.len()).unwrap_or(u32::MAX);
            let request =
                ListGatewaysRequest { limit: PAGE_ROWS, offset, tenant_id: tenant_id.clone(), ..Default::default() };
            let mut client = self.gateways_client();
            let list = self.call("list_gateways", request, |r| async move { client.list(r).await }).await?;
            if list.result.is_empty() {
                return Ok(known);
            }
            known.extend(list.result.into_iter().filter_map(|item| {
                let last_seen_at = convert::time(item.last_seen_at.as_ref());
                Some(KnownGateway { id: item.gateway_id.parse().ok()?, name: item.name, last_seen_at })
            }));
            if known.len() >= list.total_count as usize {
                return Ok(known);
            }
        }
    }

    pub(super) async fn gateway_read(&self, id: GatewayId) -> Answer<Option<NetworkGateway>> {
        let got = found(self.gateway_message(id).await)?;
        Ok(got.map(|gateway| {
            let place = gateway.location.unwrap_or_default();
            NetworkGateway {
                id,
                name: gateway.name,
                description: gateway.description,
                latitude: place.latitude,
                longitude: place.longitude,
                altitude: place.altitude,
                tags: convert::tags_from(gateway.tags),
            }
        }))
    }

    async fn gateway_message(&self, id: GatewayId) -> Answer<Gateway> {
        let request = GetGatewayRequest { gateway_id: id.to_string() };
        let mut client = self.gateways_client();
        let got = self.call("get_gateway", request, |r| async move { client.get(r).await }).await?;
        Ok(got.gateway.unwrap_or_default())
    }

    pub(super) async fn gateway_created(&self, gateway: &NetworkGateway) -> Answer<()> {
        let empty = Gateway { tenant_id: self.tenant().await?, ..Default::default() };
        let request = CreateGatewayRequest { gateway: Some(gateway_to(gateway, empty)) };
        let mut client = self.gateways_client();
        self.call("create_gateway", request, |r| async move { client.create(r).await }).await
    }

    pub(super) async fn gateway_updated(&self, gateway: &NetworkGateway) -> Answer<()> {
        let before = self.gateway_message(gateway.id).await?;
        let request = UpdateGatewayRequest { gateway: Some(gateway_to(gateway, before)) };
        let mut client = self.gateways_client();
        self.call("update_gateway", request, |r| async move { client.update(r).await }).await
    }

    pub(super) async fn gateway_deleted(&self, id: GatewayId) -> Answer<()> {
        let request = DeleteGatewayRequest { gateway_id: id.to_string() };
        let mut client = self.gateways_client();
        gone(self.call("delete_gateway", request, |r| async move { client.delete(r).await }).await)
    }

    pub(super) async fn gateway_days_read(&self, id: GatewayId, from: NaiveDate) -> Answer<Vec<GatewayDay>> {
        let request = GetGatewayMetricsRequest {
            gateway_id: id.to_string(),
            start: Some(convert::stamp(convert::start_of(from))),
            end: Some(convert::stamp(Utc::now())),
            aggregation: Aggregation::Day.into(),
        };
        let mut client = self.gateways_client();
        let got = self.call("gateway_metrics", request, |r| async move { client.get_metrics(r).await }).await?;
        let (received, sent) = (got.rx_packets.as_ref(), got.tx_packets.as_ref());
        Ok(metric::days(received)
            .into_iter()
            .enumerate()
            .map(|(day, at)| GatewayDay {
                at,
                num_received: metric::value(received, day),
                num_sent: metric::value(sent, day),
            })
            .collect())
    }
}
