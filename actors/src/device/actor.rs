//! The actor around a device's machine: uplinks in, decodes under way, results out in log order (I2).
//!
//! Decodes of several uplinks run at once; their results wait for their turn at the head of `under_way`, so one device's order
//! holds while the decoder works in batches. Bound: the partition never has more uplinks open than its window.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::ActorFutureExt;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, WrapFuture};
use metrics::counter;
use sluse_schema::device::{DecoderScript, DeviceConfig};
use sluse_schema::partition::PartitionId;
use sluse_schema::port::{
    DecodeError, DecodeErrorKind, DecodeFailure, DecodeJob, Decoded, Decoder, TailDecoded, TailEvent,
};
use sluse_schema::record::{LogIdentity, NewRecord, Offset};
use sluse_schema::uplink::EventType;
use tokio::sync::mpsc;

use super::machine::{Admission, DeviceMachine};
use super::message::{
    Configure, HandleUplink, MergeState, Mode, Outcome, Passivate, TakeState, TakenState, Uplink, UplinkDone,
};
use super::outputs::{DecodeResult, deliveries, distinct_decoders};
use crate::mailbox::{Mailbox, Refused};
use crate::partition::metrics::{DECODE_FAILURES_UNLISTED, DECODE_WARNINGS};
use crate::supervise::ExitGuard;
use crate::tail::TailHub;

/// Bytes of a payload that the live tail and the list of decode failures show.
const TAIL_PAYLOAD_BYTES_MAX: usize = 16 * 1024;
const SAMPLE_BYTES_MAX: usize = 4 * 1024;

/// What all devices of a partition share.
#[derive(Clone, Debug)]
pub struct DeviceContext {
    pub log: Arc<LogIdentity>,
    pub partition: PartitionId,
    pub num_partitions: u32,
    pub decoder: Arc<dyn Decoder>,
    pub tail: Arc<TailHub>,
    /// Failed decodes for their owners' list; full means that a line is left out, and counted.
    pub failures: mpsc::Sender<DecodeFailure>,
}

/// One active device.
#[derive(Debug)]
pub struct DeviceActor {
    machine: DeviceMachine,
    config: Arc<DeviceConfig>,
    shared: Arc<DeviceContext>,
    done: Mailbox<UplinkDone>,
    under_way: VecDeque<UnderWay>,
    _guard: ExitGuard,
}

/// An uplink between its arrival and its result.
#[derive(Debug)]
struct UnderWay {
    uplink: Arc<Uplink>,
    admission: Admission,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Nothing to wait for.
    Settled(Outcome),
    /// Waits for its decoders. The configuration is the one it arrived under.
    Decoding { config: Arc<DeviceConfig>, decoders: Vec<Arc<DecoderScript>>, results: Vec<Option<DecodeResult>> },
}

impl DeviceActor {
    /// A device that goes on from `machine`.
    pub fn new(
        machine: DeviceMachine,
        config: Arc<DeviceConfig>,
        shared: Arc<DeviceContext>,
        done: Mailbox<UplinkDone>,
        guard: ExitGuard,
    ) -> Self {
        Self { machine, config, shared, done, under_way: VecDeque::with_capacity(1), _guard: guard }
    }

    fn begin(&mut self, uplink: &Arc<Uplink>, admission: Admission, ctx: &mut Context<Self>) -> Work {
        match admission {
            Admission::Repeat => return Work::Settled(Outcome::Repeated),
            Admission::Applied | Admission::New => {}
        }
        if uplink.meta.event != EventType::Up {
            self.show(uplink, &[], &[]);
            return Work::Settled(Outcome::RecordOnly);
        }
        if self.config.routes.is_empty() {
            self.show(uplink, &[], &[]);
            return Work::Settled(Outcome::Unconnected);
        }
        let config = Arc::clone(&self.config);
        let decoders = distinct_decoders(&config.routes);
        for (place, script) in decoders.iter().enumerate() {
            self.start_decode(uplink, place, Arc::clone(script), ctx);
        }
        let results = decoders.iter().map(|_| None).collect();
        Work::Decoding { config, decoders, results }
    }

    fn start_decode(&self, uplink: &Arc<Uplink>, place: usize, script: Arc<DecoderScript>, ctx: &mut Context<Self>) {
        let job = DecodeJob {
            script,
            payload: uplink.value.clone(),
            metadata: self.config.metadata.clone(),
            received_at_ms: uplink.meta.received_at_ms,
        };
        let decoder = Arc::clone(&self.shared.decoder);
        let offset = uplink.offset;
        let decode = async move { decoder.decode(job).await };
        ctx.spawn(decode.into_actor(self).map(move |result, actor, ctx| {
            actor.decoded(offset, place, result);
            actor.settle(ctx);
        }));
    }

    fn decoded(&mut self, offset: Offset, place: usize, result: DecodeResult) {
        let Ok(at) = self.under_way.binary_search_by_key(&offset, |u| u.uplink.offset) else { return };
        if let Work::Decoding { results, .. } = &mut self.under_way[at].work
            && let Some(slot) = results.get_mut(place)
        {
            *slot = Some(result);
        }
    }

    /// Reports every uplink at the head that has all it waits for.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        while self.under_way.front().is_some_and(UnderWay::is_ready) {
            let Some(head) = self.under_way.pop_front() else { return };
            self.finish(head, ctx);
        }
    }

    fn finish(&mut self, head: UnderWay, ctx: &mut Context<Self>) {
        let UnderWay { uplink, admission, work } = head;
        let (outcome, outputs, num_failures) = match work {
            Work::Settled(outcome) => (outcome, Vec::new(), 0),
            Work::Decoding { config, decoders, results } => {
                let results: Vec<DecodeResult> =
                    results.into_iter().map(|r| r.unwrap_or_else(|| Err(lost()))).collect();
                let num_failures = self.report_failures(&uplink, &decoders, &results);
                self.show(&uplink, &decoders, &results);
                (Outcome::Routed, self.outputs(&config, &uplink, &decoders, &results), num_failures)
            }
        };
        self.machine.apply(&uplink, admission, num_failures);
        self.report(UplinkDone { device: self.config.device, offset: uplink.offset, outcome, outputs }, ctx);
    }

    fn outputs(
        &self,
        config: &DeviceConfig,
        uplink: &Uplink,
        decoders: &[Arc<DecoderScript>],
        results: &[DecodeResult],
    ) -> Vec<(PartitionId, NewRecord)> {
        let event_key = uplink.meta.event_key(&self.shared.log, self.shared.partition.0, uplink.offset);
        deliveries(config, uplink, event_key, decoders, results, self.shared.num_partitions)
    }

    fn report(&self, done: UplinkDone, ctx: &mut Context<Self>) {
        match self.done.offer(done) {
            Ok(()) => {}
            // Cannot happen while the partition keeps its window: every mailbox here has room for all of it. If it does, wait.
            Err(Refused::Full(done)) => {
                let mailbox = self.done.clone();
                ctx.wait(
                    async move {
                        let _ = mailbox.deliver(done).await;
                    }
                    .into_actor(self),
                );
            }
            // The partition was lost or starts anew: whoever owns it reads this uplink again.
            Err(Refused::Closed(_)) => ctx.stop(),
        }
    }

    fn report_failures(&self, uplink: &Uplink, decoders: &[Arc<DecoderScript>], results: &[DecodeResult]) -> u32 {
        let mut num_failures = 0;
        for (script, result) in decoders.iter().zip(results) {
            match result {
                Ok(Decoded::Value { num_warnings: 0, .. } | Decoded::Nothing) => {}
                Ok(Decoded::Value { num_warnings, .. }) => {
                    counter!(DECODE_WARNINGS).increment(u64::from(*num_warnings));
                }
                Err(error) => {
                    num_failures += 1;
                    let failure = DecodeFailure {
                        decoder: script.id,
                        device: self.config.device,
                        kind: error.kind,
                        message: error.message.clone(),
                        sample: uplink.value.slice(..uplink.value.len().min(SAMPLE_BYTES_MAX)),
                        failed_at_ms: uplink.meta.received_at_ms,
                        num_failures: 1,
                    };
                    if self.shared.failures.try_send(failure).is_err() {
                        counter!(DECODE_FAILURES_UNLISTED).increment(1);
                    }
                }
            }
        }
        num_failures
    }

    fn show(&self, uplink: &Uplink, decoders: &[Arc<DecoderScript>], results: &[DecodeResult]) {
        if !self.shared.tail.is_watched(self.config.device, self.config.application) {
            return;
        }
        let raw = |bytes: &[u8]| {
            let fits = bytes.len() <= TAIL_PAYLOAD_BYTES_MAX;
            fits.then(|| serde_json::from_slice(bytes).ok()).flatten()
        };
        let decoded = decoders.iter().zip(results).map(|(script, result)| TailDecoded {
            payload_decoder_id: script.id.0,
            payload: match result {
                Ok(Decoded::Value { json, .. }) => raw(json),
                _ => None,
            },
            error: result.as_ref().err().map(|e| e.message.clone()),
        });
        self.shared.tail.publish(TailEvent {
            device_id: self.config.device,
            application_id: self.config.application,
            organization: self.config.organization,
            device_name: self.config.name.clone(),
            event: uplink.meta.event.as_str().to_owned(),
            received_at_ms: uplink.meta.received_at_ms,
            payload: raw(&uplink.value),
            decoded: decoded.collect(),
            num_missed: 0,
        });
    }
}

impl UnderWay {
    fn is_ready(&self) -> bool {
        match &self.work {
            Work::Settled(_) => true,
            Work::Decoding { results, .. } => results.iter().all(Option::is_some),
        }
    }
}

fn lost() -> DecodeError {
    DecodeError { kind: DecodeErrorKind::Crash, message: "the decoder gave no answer".to_owned() }
}

impl Actor for DeviceActor {
    type Context = Context<Self>;
}

impl Handler<HandleUplink> for DeviceActor {
    type Result = ();

    fn handle(&mut self, HandleUplink { uplink, mode }: HandleUplink, ctx: &mut Self::Context) {
        let admission = self.machine.admit(&uplink);
        let work = match mode {
            Mode::Replay => Work::Settled(Outcome::Replayed),
            Mode::Live => self.begin(&uplink, admission, ctx),
        };
        self.under_way.push_back(UnderWay { uplink, admission, work });
        self.settle(ctx);
    }
}

impl Handler<TakeState> for DeviceActor {
    type Result = TakenState;

    fn handle(&mut self, _: TakeState, _: &mut Self::Context) -> TakenState {
        TakenState(Box::new(self.machine.take_state()))
    }
}

impl Handler<Configure> for DeviceActor {
    type Result = ();

    fn handle(&mut self, Configure(config): Configure, _: &mut Self::Context) {
        self.config = config;
    }
}

impl Handler<MergeState> for DeviceActor {
    type Result = ();

    fn handle(&mut self, MergeState(stored): MergeState, _: &mut Self::Context) {
        self.machine.merge_stored(*stored);
    }
}

impl Handler<Passivate> for DeviceActor {
    type Result = ();

    fn handle(&mut self, _: Passivate, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
