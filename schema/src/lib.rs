//! Words, wire formats, policy and ports of Sluse. No I/O and no runtime: everything here can be tested as plain values.
//!
//! Where each noun lives:
//!
//! | noun | module |
//! |---|---|
//! | `DevEui`, `DeviceId`, `TargetId`, `DeviceKey` … | [`id`] |
//! | `Record`, `Headers`, `Position`, `Step` | [`record`] |
//! | `UplinkMeta`, `EventType`, `SourceKind` | [`uplink`] |
//! | `UpFigures` | [`figures`] |
//! | `DeviceConfig`, `DeviceState`, `Transmission`, `DecoderScript` | [`device`] |
//! | `TargetConfig`, `TargetCursor`, `TargetCounters` | [`target`] |
//! | `DeliveryMeta`, `IdempotencyKey`, `Attempt`, `DeadLetter` | [`delivery`] |
//! | `ChangeEvent` | [`change`] |
//! | `Principal`, `Role`, `Permit` | [`permission`], [`policy`] |
//! | the ports (`Log`, `Decoder`, `DeviceStore`, `TargetStore`, `TargetSender`, `Intake` …) | [`port`] |
//! | ChirpStack's and other senders' envelopes | [`wire`] |
//! | what may stand in text from outside | [`text`] |
//!
//! Invariants, named in code and tests:
//!
//! * **I1** a position moves only together with the outputs of everything up to it, in one transaction.
//! * **I2** uplinks of one device are handled in log order, and their deliveries stand in that order.
//! * **I3** every queue has a bound and a stated policy when full; waiting is a metric; `do_send` is banned.
//! * **I4** a delivery ends delivered, dead-lettered, expired or discarded, each counted; never as a log line.
//! * **I5** no administrative row changes without a checked permission and a change event, in one transaction.
//! * **I6** a slow or dead target delays only its own deliveries; a slow or hostile decoder only its own devices, but for a bounded burst.
//! * **I7** nothing a device, a receiver or a decoder sends can end the process.
//! * **I8** whoever lost a partition can write nothing for it: steps are fenced by the log, rows by the epoch.

pub mod beat;
pub mod change;
pub mod delivery;
pub mod device;
pub mod figures;
pub mod id;
pub mod partition;
pub mod permission;
pub mod policy;
pub mod port;
pub mod record;
pub mod record_text;
pub mod secret;
pub mod target;
pub mod text;
pub mod uplink;
pub mod wire;

#[cfg(feature = "testing")]
pub mod testing;
