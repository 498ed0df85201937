//! What librdkafka offers and the `rdkafka` crate does not pass on.
#![allow(unsafe_code, reason = "calls into librdkafka through the crate's own bindings")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

/// What is reported this soon after another report is served together with it.
const REPORTS_WITHIN: Duration = Duration::from_millis(1);

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

/// One member of a group: the client id it came with, and its assignment as the group's leader wrote it.
pub type Member = (String, Vec<u8>);

/// Asks the brokers who the members of a group are; whether it is stable, beside them. Blocks up to `within`: that long while one of
/// several brokers is away.
///
/// Not `DescribeConsumerGroups`, which asks the group's broker alone: librdkafka 2.12 ended the process in one of its assertions
/// (`rd_kafka_enq_once_del_source_return`) when connections came and went meanwhile. Nor the crate's own form of this question, which
/// takes an answer of all brokers but one for none and never frees it.
pub fn describe_group<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    within: Duration,
) -> Result<(bool, Vec<Member>), KafkaError> {
    let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    let name = CString::new(group)?;
    let mut list: *const bindings::rd_kafka_group_list = std::ptr::null();
    // SAFETY: the client, the name and the place for the answer outlive the call. The list is ours then, if there is one, and is destroyed
    // once, after everything was copied out of it.
    unsafe {
        let code =
            bindings::rd_kafka_list_groups(consumer.client().native_ptr(), name.as_ptr(), &raw mut list, timeout_ms);
        if list.is_null() {
            return Err(KafkaError::GroupListFetch(code.into()));
        }
        let found = (0..usize::try_from((*list).group_cnt).unwrap_or_default())
            .map(|place| (*list).groups.add(place))
            .find(|found| text_of((**found).group) == group)
            .map(|found| read_group(found));
        bindings::rd_kafka_group_list_destroy(list);
        found.ok_or_else(|| match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => KafkaError::GroupListFetch(RDKafkaErrorCode::GroupIdNotFound),
            code => KafkaError::GroupListFetch(code.into()),
        })
    }
}

/// # Safety
/// `group` is valid.
unsafe fn read_group(group: *const bindings::rd_kafka_group_info) -> (bool, Vec<Member>) {
    // SAFETY: `group` is valid by our caller's promise, and with it its texts, its members and their bytes, in the numbers it says.
    unsafe {
        let is_stable =
            (*group).err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && text_of((*group).state) == "Stable";
        let num_members =
            if (*group).members.is_null() { 0 } else { usize::try_from((*group).member_cnt).unwrap_or_default() };
        let members = (0..num_members).map(|place| {
            let member = (*group).members.add(place);
            let len = usize::try_from((*member).member_assignment_size).unwrap_or_default();
            let assignment = if (*member).member_assignment.is_null() {
                Vec::new()
            } else {
                std::slice::from_raw_parts((*member).member_assignment.cast::<u8>(), len).to_vec()
            };
            (text_of((*member).client_id), assignment)
        });
        (is_stable, members.collect())
    }
}

/// # Safety
/// `text` is null or ends in a NUL.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and our caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Wakes the thread that serves a producer; a part of the producer's context.
#[derive(Debug, Default)]
pub struct Bell(OnceLock<Thread>);

/// From now on, whenever something comes to be reported while nothing waited, this thread is woken where it is parked.
pub fn wake_me<C: ProducerContext + AsRef<Bell>>(producer: &BaseProducer<C>) {
    unsafe extern "C" fn ring(_: *mut bindings::rd_kafka_t, bell: *mut c_void) {
        // SAFETY: see below.
        let bell = unsafe { &*bell.cast_const().cast::<Bell>() };
        if let Some(thread) = bell.0.get() {
            thread.unpark();
        }
    }
    let bell: &Bell = producer.context().as_ref().as_ref();
    bell.0.get_or_init(std::thread::current);
    // SAFETY: the bell is part of the context, which the crate keeps until it has destroyed the client, and with that the queue and the
    // threads that ring. The reference to the queue is ours and is given back once.
    unsafe {
        let queue = bindings::rd_kafka_queue_get_main(producer.client().native_ptr());
        bindings::rd_kafka_queue_cb_event_enable(queue, Some(ring), std::ptr::from_ref(bell).cast_mut().cast());
        bindings::rd_kafka_queue_destroy(queue);
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

/// Waits for reports, at most that long, then serves the producer. To be called by the thread that [`wake_me`] was called by.
pub fn serve_when_reported<C: ProducerContext>(producer: &BaseProducer<C>, at_most: Duration) {
    std::thread::park_timeout(at_most);
    // The reports of several partitions come one after another.
    serve_after(producer, REPORTS_WITHIN);
}

/// Waits, then serves the producer.
pub fn serve_after<C: ProducerContext>(producer: &BaseProducer<C>, wait: Duration) {
    std::thread::sleep(wait);
    serve(producer);
}
