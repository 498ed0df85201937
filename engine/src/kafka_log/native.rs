//! The two questions that librdkafka answers and the `rdkafka` crate does not pass on.
#![allow(unsafe_code, reason = "calls into librdkafka through the crate's own bindings")]

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// The generation in which the group knows this member; negative while it knows it in none.
fn generation<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> i32 {
    // SAFETY: the client lives as long as `consumer`; the metadata is ours, is not null when it is asked, and is destroyed once.
    unsafe {
        let metadata = bindings::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return -1;
        }
        let generation = bindings::rd_kafka_consumer_group_metadata_generation_id(metadata);
        bindings::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// What a transaction names its group by, if it is of a real generation: Kafka takes offsets that name none while the group is empty,
/// whoever sends them.
pub fn group_metadata<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<ConsumerGroupMetadata> {
    let before = generation(consumer);
    let metadata = consumer.group_metadata()?;
    // Generations only rise: what was the same before and after was the same between.
    (before >= 0 && generation(consumer) == before).then_some(metadata)
}

/// Where the reader stands in a partition: behind the last record it was given, and behind what only Kafka itself writes (marks of
/// transactions).
pub fn position<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partition: i32) -> Option<u64> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, partition);
    // SAFETY: both pointers live as long as `consumer` and `list`; librdkafka fills in the list's offsets.
    unsafe {
        bindings::rd_kafka_position(consumer.client().native_ptr(), list.ptr());
    }
    match list.find_partition(topic, partition)?.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    }
}
