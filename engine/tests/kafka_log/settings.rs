//! Topics that contradict the configuration, and ways to reach a broker.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use sluse_engine::kafka_log::{KafkaLog, KafkaLogConfig, OpenKafkaError};
use sluse_schema::port::log::Log as _;
use sluse_schema::record::Topic;
use sluse_schema::secret::Secret;

use crate::certificates::certificates;
use crate::fixture::{
    P0, append, commit, config, deliveries, fresh_prefix, open, shared, start_with_tls, step, uplinks,
};
use crate::kafka_process::{SASL_PASSWORD, SASL_USER};

async fn make_topic(brokers: &str, name: &str, num_partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let mut topic = NewTopic::new(name, num_partitions, TopicReplication::Fixed(1));
    topic.config = settings.to_vec();
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap().pop().unwrap().unwrap();
}

/// Why the log is not opened. A broker that is busy tells a new topic's settings a moment late.
async fn refusal(config: &KafkaLogConfig) -> String {
    for _ in 0..25 {
        match KafkaLog::open(config.clone()).await {
            Err(error) => return error.to_string(),
            Ok(log) => log.close().await.unwrap(),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("{config:?} is taken");
}

#[tokio::test]
async fn a_topic_that_contradicts_the_configuration_is_refused_by_name() {
    let cluster = shared().await;
    let brokers = cluster.kafka.bootstrap();
    let large = ("max.message.bytes", "8388608");
    let ahead = ("message.timestamp.after.max.ms", "86400000");
    type Case<'a> = (i32, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 8] = [
        (3, &[large], "3 partitions"),
        (4, &[large, ("cleanup.policy", "compact")], "cleanup.policy=compact"),
        (4, &[large, ("message.timestamp.type", "LogAppendTime")], "message.timestamp.type=LogAppendTime"),
        // Kafka's default is an hour.
        (4, &[large], "message.timestamp.after.max.ms=3600000"),
        (4, &[large, ahead, ("unclean.leader.election.enable", "true")], "unclean.leader.election.enable=true"),
        (4, &[large, ahead, ("min.insync.replicas", "2")], "min.insync.replicas=2"),
        (4, &[large, ahead, ("retention.ms", "3600000")], "retention.ms=3600000"),
        (4, &[ahead], "max.message.bytes="),
    ];
    for (num_partitions, settings, expected) in cases {
        let config = config(&brokers, &fresh_prefix(), "node-1");
        let config = KafkaLogConfig { retention_ms: Some(7 * 24 * 3_600_000), ..config };
        make_topic(&brokers, &config.topic(Topic::Uplinks), num_partitions, settings).await;
        let error = refusal(&config).await;
        assert!(error.contains(expected) && error.contains("sluse.uplinks.v1"), "{error}");
    }
    // What keeps longer than it must is fine.
    let config = config(&brokers, &fresh_prefix(), "node-1");
    let config = KafkaLogConfig { retention_ms: Some(7 * 24 * 3_600_000), ..config };
    for topic in [Topic::Uplinks, Topic::Deliveries] {
        make_topic(&brokers, &config.topic(topic), 4, &[large, ahead, ("retention.ms", "-1")]).await;
    }
    open(config).await;
}

#[tokio::test]
async fn of_two_nodes_that_make_the_topics_at_once_the_one_that_wants_others_is_refused() {
    let cluster = shared().await;
    let config = config(&cluster.kafka.bootstrap(), &fresh_prefix(), "node-1");
    let other = KafkaLogConfig { num_partitions: 3, node_id: "node-2".into(), ..config.clone() };
    let (ours, others) = tokio::join!(KafkaLog::open(config), KafkaLog::open(other));
    let is_refused = |opened: &Result<_, OpenKafkaError>| matches!(opened, Err(OpenKafkaError::Partitions { .. }));
    assert!(is_refused(&ours) != is_refused(&others), "{ours:?} {others:?}");
    for log in [ours, others].into_iter().flatten() {
        log.close().await.unwrap();
    }
}

#[tokio::test]
async fn properties_reach_the_broker_and_a_wrong_password_is_said_without_being_shown() {
    let cluster = shared().await;
    let mut config = config(&cluster.kafka.sasl_bootstrap(), &fresh_prefix(), "node-1");
    for (name, value) in [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", SASL_USER),
        ("sasl.password", SASL_PASSWORD),
    ] {
        config.properties.insert(name.to_owned(), Secret::new(value));
    }
    let log = open(config.clone()).await;
    log.append(P0, append("over SASL")).await.unwrap();
    assert_eq!(uplinks(&*log, P0).await, ["over SASL"]);
    log.close().await.unwrap();

    config.properties.insert("sasl.password".to_owned(), Secret::new("hunter2"));
    let error = KafkaLog::open(config.clone()).await.unwrap_err();
    assert!(matches!(error, OpenKafkaError::Unreachable { .. }), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");

    config.properties.insert("acks".to_owned(), Secret::new("0"));
    let error = KafkaLog::open(config).await.unwrap_err();
    assert!(matches!(&error, OpenKafkaError::Property(name) if name == "acks"), "{error}");
}

#[tokio::test]
async fn tls_and_sasl_together_reach_every_client_and_another_authority_is_refused() {
    let (ours, another) = (certificates(), certificates());
    let cluster = start_with_tls(&ours).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&cluster.kafka.sasl_bootstrap(), "", "node-1");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Secret::new(path.to_str().unwrap())
    };
    for (name, value) in [
        ("security.protocol", Secret::new("SASL_SSL")),
        ("ssl.ca.location", file("ca.pem", &ours.authority)),
        ("sasl.mechanism", Secret::new("PLAIN")),
        ("sasl.username", Secret::new(SASL_USER)),
        ("sasl.password", Secret::new(SASL_PASSWORD)),
    ] {
        config.properties.insert(name.to_owned(), value);
    }
    // Appends, the group, steps and reading are clients of their own.
    let log = open(config.clone()).await;
    let first = log.append(P0, append("over TLS")).await.unwrap();
    assert!(commit(&*log, step(first, first.next(), "and on")).await);
    assert_eq!(uplinks(&*log, P0).await, ["over TLS"]);
    assert_eq!(deliveries(&*log, P0).await, ["and on"]);
    log.close().await.unwrap();

    config.properties.insert("ssl.ca.location".to_owned(), file("another.pem", &another.authority));
    let error = KafkaLog::open(config).await.unwrap_err();
    assert!(matches!(error, OpenKafkaError::Unreachable { .. }), "{error}");
}
