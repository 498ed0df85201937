//! Names of the Kafka log's metrics, with help text and unit. Those it shares with the embedded log are in [`crate::log::metrics`].

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const TRANSACTIONS: &str = "sluse_kafka_transactions_total";
pub const TRANSACTION_SECONDS: &str = "sluse_kafka_transaction_seconds";
pub const TRANSACTION_STEPS: &str = "sluse_kafka_transaction_steps";
pub const PRODUCERS_RENEWED: &str = "sluse_kafka_producers_renewed_total";
pub const APPENDS_FAILED: &str = "sluse_kafka_appends_failed_total";
pub const REBALANCES: &str = "sluse_kafka_rebalances_total";
pub const SEATS_RENEWED: &str = "sluse_kafka_seats_renewed_total";
pub const ORPHANS_FOUND: &str = "sluse_kafka_orphans_found_total";
pub const PARTITIONS_OWNED: &str = "sluse_kafka_partitions_owned";
pub const LEASE_HELD: &str = "sluse_kafka_lease_held";
pub const FETCHED: &str = "sluse_kafka_records_fetched_total";
pub const OWN_READ: &str = "sluse_kafka_own_records_read_total";
pub const REPOSITIONED: &str = "sluse_kafka_readers_positioned_total";
pub const INDEX_BLOCKS: &str = "sluse_kafka_index_blocks";

/// Registers help texts and units.
pub fn describe() {
    describe_counter!(TRANSACTIONS, Unit::Count, "transactions of steps, by outcome");
    describe_histogram!(TRANSACTION_SECONDS, Unit::Seconds, "time of one transaction, from its begin to its commit");
    describe_histogram!(TRANSACTION_STEPS, Unit::Count, "steps of different partitions in one transaction");
    describe_counter!(PRODUCERS_RENEWED, Unit::Count, "times the transactional producer was made anew");
    describe_counter!(APPENDS_FAILED, Unit::Count, "appends that Kafka did not take, or may not have, by outcome");
    describe_counter!(REBALANCES, Unit::Count, "changes of what this node owns, by kind");
    describe_counter!(
        SEATS_RENEWED,
        Unit::Count,
        "times the group shut this node out for an earlier membership of its own, and it joined again"
    );
    describe_counter!(
        ORPHANS_FOUND,
        Unit::Count,
        "partitions that the group had given to nobody, for which this node left the group and joined it again"
    );
    describe_gauge!(PARTITIONS_OWNED, Unit::Count, "partitions that this node owns");
    describe_gauge!(LEASE_HELD, Unit::Count, "1 while the group has confirmed this node lately, so that it may send");
    describe_counter!(FETCHED, Unit::Count, "records read from Kafka, by topic and reader");
    describe_counter!(
        OWN_READ,
        Unit::Count,
        "records that this node wrote and read without Kafka bringing them back, by topic"
    );
    describe_counter!(REPOSITIONED, Unit::Count, "times a reader was put to another offset, by topic and reader");
    describe_gauge!(INDEX_BLOCKS, Unit::Count, "blocks of the deliveries log whose targets are known, by partition");
}
