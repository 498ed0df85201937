//! What librdkafka offers and the `rdkafka` crate does not pass on.
#![allow(unsafe_code, reason = "calls into librdkafka through the crate's own bindings")]

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

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

/// Commits, and waits for the answer that long. The crate's own synchronous commit waits for ever, and on a line that drops everything
/// that is minutes.
pub fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    positions: &TopicPartitionList,
    within: Duration,
) -> Result<(), KafkaError> {
    let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    // SAFETY: the client and the list outlive the calls, which copy the list. The queue is ours and is destroyed once; an answer that comes
    // later finds it closed, and librdkafka drops it. An event, if there is one, is destroyed once.
    let answer = unsafe {
        let queue = bindings::rd_kafka_queue_new(client);
        let mut answer = bindings::rd_kafka_commit_queue(client, positions.ptr(), queue, None, std::ptr::null_mut());
        if answer == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let event = bindings::rd_kafka_queue_poll(queue, timeout_ms);
            answer = if event.is_null() {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT
            } else {
                let answer = bindings::rd_kafka_event_error(event);
                bindings::rd_kafka_event_destroy(event);
                answer
            };
        }
        bindings::rd_kafka_queue_destroy(queue);
        answer
    };
    match answer {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::from(code))),
    }
}

/// One member of a group: the name it bears as a static member, and its partitions of one topic.
pub type Member = (String, Vec<i32>);

/// Asks the group's coordinator who its members are and what each was given of `topic`; whether the group is stable, beside them. Blocks up
/// to `within`.
pub fn describe_group<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    topic: &str,
    within: Duration,
) -> Result<(bool, Vec<Member>), RDKafkaErrorCode> {
    let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    let group = CString::new(group).map_err(|_| RDKafkaErrorCode::InvalidArgument)?;
    let mut names: [*const c_char; 1] = [group.as_ptr()];
    let client = consumer.client().native_ptr();
    // SAFETY: the client and the name outlive the calls, which copy the name. Queue, options and event are ours and are each destroyed once; an
    // answer that comes later finds the queue closed. What is read of the event is copied before that is destroyed.
    unsafe {
        let queue = bindings::rd_kafka_queue_new(client);
        let options = bindings::rd_kafka_AdminOptions_new(
            client,
            bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
        );
        // A timeout out of its range is refused, and librdkafka's own holds.
        bindings::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, std::ptr::null_mut(), 0);
        bindings::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue);
        bindings::rd_kafka_AdminOptions_destroy(options);
        let event = bindings::rd_kafka_queue_poll(queue, timeout_ms);
        let described = if event.is_null() {
            Err(RDKafkaErrorCode::OperationTimedOut)
        } else {
            let described = read_description(event, topic);
            bindings::rd_kafka_event_destroy(event);
            described
        };
        bindings::rd_kafka_queue_destroy(queue);
        described
    }
}

/// # Safety
/// `event` is not null and not destroyed yet.
unsafe fn read_description(
    event: *mut bindings::rd_kafka_event_t,
    topic: &str,
) -> Result<(bool, Vec<Member>), RDKafkaErrorCode> {
    // SAFETY: the event is valid by our caller's promise, and everything below is part of it. Pointers that may be null are looked at first;
    // indexes are below the counts that librdkafka gave.
    unsafe {
        let failed = bindings::rd_kafka_event_error(event);
        if failed != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(failed.into());
        }
        let result = bindings::rd_kafka_event_DescribeConsumerGroups_result(event);
        let mut num_groups = 0;
        let groups = bindings::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut num_groups);
        if groups.is_null() || num_groups == 0 {
            return Err(RDKafkaErrorCode::GroupIdNotFound);
        }
        let group = *groups;
        let failed = bindings::rd_kafka_ConsumerGroupDescription_error(group);
        if !failed.is_null() {
            return Err(bindings::rd_kafka_error_code(failed).into());
        }
        let is_stable = bindings::rd_kafka_ConsumerGroupDescription_state(group)
            == bindings::rd_kafka_consumer_group_state_t::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE;
        let mut members = Vec::new();
        for place in 0..bindings::rd_kafka_ConsumerGroupDescription_member_count(group) {
            let member = bindings::rd_kafka_ConsumerGroupDescription_member(group, place);
            let name = bindings::rd_kafka_MemberDescription_group_instance_id(member);
            let name = if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() };
            let assignment = bindings::rd_kafka_MemberDescription_assignment(member);
            let list = bindings::rd_kafka_MemberAssignment_partitions(assignment);
            let mut partitions = Vec::new();
            if !list.is_null() {
                for place in 0..usize::try_from((*list).cnt).unwrap_or_default() {
                    let element = (*list).elems.add(place);
                    if CStr::from_ptr((*element).topic).to_bytes() == topic.as_bytes() {
                        partitions.push((*element).partition);
                    }
                }
            }
            members.push((name, partitions));
        }
        Ok((is_stable, members))
    }
}

/// Serves everything that the producer has to report by now; never waits.
///
/// Not [`BaseProducer::poll`] with a time to wait: what is left of that time below a millisecond it spends turning in a loop (rdkafka 0.39
/// hands librdkafka whole milliseconds), which was most of what a node cost on Kafka.
pub fn serve<C: ProducerContext>(producer: &BaseProducer<C>) {
    // SAFETY: the client lives as long as `producer`; the reference to its queue is ours and is given back once.
    let queue = unsafe { bindings::rd_kafka_queue_get_main(producer.client().native_ptr()) };
    loop {
        producer.poll(Duration::ZERO);
        // SAFETY: see above.
        if unsafe { bindings::rd_kafka_queue_length(queue) } == 0 {
            break;
        }
    }
    // SAFETY: see above.
    unsafe { bindings::rd_kafka_queue_destroy(queue) };
}

/// Waits, then serves the producer: what is to be done again and again while something is on its way.
pub fn serve_after<C: ProducerContext>(producer: &BaseProducer<C>, wait: Duration) {
    std::thread::sleep(wait);
    serve(producer);
}
