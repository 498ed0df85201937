//! Look-ups of several callers as one query. Partitions activate their devices each for itself, so that with many silent devices a query
//! is for one or two of them; and what a query costs is mostly its own: asking for twenty devices costs little more than asking for one.
//! Not for looking senders up: the gate does that one batch at a time, and would only wait for nobody.
//!
//! Decided here: whoever finds nobody waiting waits [`GATHER`] for others, then asks for all. If it is stopped meanwhile (its actor
//! ended), the others notice and ask again. Limit: [`NUM_QUESTIONS_MAX`] in one query.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluse_schema::port::StoreError;
use tokio::sync::oneshot;

/// How long others are waited for.
const GATHER: Duration = Duration::from_millis(4);
/// Questions in one query.
const NUM_QUESTIONS_MAX: usize = 1_000;

type Answers<A> = Result<Vec<Option<A>>, StoreError>;

struct Asked<Q, A> {
    questions: Vec<Q>,
    answer: oneshot::Sender<Answers<A>>,
}

/// Who waits for the same kind of look-up.
pub struct Gather<Q, A>(Mutex<Vec<Asked<Q, A>>>);

impl<Q, A> Default for Gather<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q, A> std::fmt::Debug for Gather<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gather({} waiting)", self.lock().len())
    }
}

/// Nobody may wait behind one that asks for all and is stopped before it does.
struct Lead<'g, Q, A>(&'g Gather<Q, A>);

impl<Q, A> Drop for Lead<'_, Q, A> {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}

impl<Q: Clone, A> Gather<Q, A> {
    /// The answers to these questions, in their order. `run` answers many questions, in their order.
    ///
    /// # Errors
    /// What `run` failed with, for everybody it asked for.
    pub async fn ask<F>(&self, questions: &[Q], run: impl Fn(Vec<Q>) -> F) -> Answers<A>
    where
        F: Future<Output = Answers<A>>,
    {
        loop {
            let (answer, answered) = oneshot::channel();
            let leads = {
                let mut waiting = self.lock();
                waiting.push(Asked { questions: questions.to_vec(), answer });
                waiting.len() == 1
            };
            if leads {
                let lead = Lead(self);
                tokio::time::sleep(GATHER).await;
                let asked = std::mem::take(&mut *self.lock());
                std::mem::forget(lead);
                answer_all(asked, &run).await;
            }
            if let Ok(answers) = answered.await {
                return answers;
            }
        }
    }
}

impl<Q, A> Gather<Q, A> {
    fn lock(&self) -> MutexGuard<'_, Vec<Asked<Q, A>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer_all<Q, A, F>(asked: Vec<Asked<Q, A>>, run: &impl Fn(Vec<Q>) -> F)
where
    F: Future<Output = Answers<A>>,
{
    let mut asked = asked.into_iter().peekable();
    while asked.peek().is_some() {
        let (mut questions, mut whose) = (Vec::new(), Vec::new());
        while let Some(next) =
            asked.next_if(|next| questions.is_empty() || questions.len() + next.questions.len() <= NUM_QUESTIONS_MAX)
        {
            whose.push((next.questions.len(), next.answer));
            questions.extend(next.questions);
        }
        match run(questions).await {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                for (num, answer) in whose {
                    // Closed: whoever asked has gone.
                    let _ = answer.send(Ok(answers.by_ref().take(num).collect()));
                }
            }
            Err(error) => {
                for (_, answer) in whose {
                    let _ = answer.send(Err(same(&error)));
                }
            }
        }
    }
}

fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Refused(why) => StoreError::Refused(why.clone()),
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        fenced @ StoreError::Fenced { .. } => StoreError::Unavailable(fenced.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Answers even numbers with themselves and counts how often it is asked.
    async fn evens(num_queries: &AtomicUsize, questions: Vec<u64>) -> Answers<u64> {
        num_queries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(questions.into_iter().map(|n| (n % 2 == 0).then_some(n)).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_at_the_same_time_is_answered_by_one_query_and_with_what_was_asked() {
        let (gather, num_queries) = (Gather::default(), AtomicUsize::new(0));
        let ask = |questions: [u64; 3]| {
            let (gather, num_queries) = (&gather, &num_queries);
            async move { gather.ask(&questions, |all| evens(num_queries, all)).await.unwrap() }
        };
        let answers = tokio::join!(ask([1, 2, 3]), ask([4, 4, 5]), ask([2, 7, 8]));
        assert_eq!(answers.0, [None, Some(2), None]);
        assert_eq!(answers.1, [Some(4), Some(4), None]);
        assert_eq!(answers.2, [Some(2), None, Some(8)]);
        assert_eq!(num_queries.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_behind_one_that_was_stopped_asks_again() {
        let (gather, num_queries) = (Arc::new(Gather::default()), Arc::new(AtomicUsize::new(0)));
        for stopped_after_ms in [1, 8] {
            let start = || {
                let (gather, num_queries) = (Arc::clone(&gather), Arc::clone(&num_queries));
                tokio::spawn(async move { gather.ask(&[2], |all| evens(&num_queries, all)).await })
            };
            let first = start();
            tokio::time::sleep(Duration::from_micros(100)).await;
            let second = start();
            tokio::time::sleep(Duration::from_millis(stopped_after_ms)).await;
            first.abort();
            assert_eq!(second.await.unwrap().unwrap(), [Some(2)], "stopped after {stopped_after_ms} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_reaches_everybody_and_a_query_is_bounded() {
        let gather = Gather::<u64, u64>::default();
        let fail = |_| async { Err(StoreError::Unavailable("away".into())) };
        let (first, second) = tokio::join!(gather.ask(&[1], fail), gather.ask(&[2], fail));
        assert!(
            [first, second].iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(why)) if why == "away"))
        );

        let largest = AtomicUsize::new(0);
        let many: Vec<u64> = (0..700).collect();
        let ask = || {
            gather.ask(&many, |all| {
                largest.fetch_max(all.len(), Ordering::Relaxed);
                async move { Ok(all.into_iter().map(Some).collect()) }
            })
        };
        let (first, second) = tokio::join!(ask(), ask());
        let whole: Vec<Option<u64>> = many.iter().copied().map(Some).collect();
        assert_eq!((first.unwrap(), second.unwrap()), (whole.clone(), whole));
        assert_eq!(largest.load(Ordering::Relaxed), 700);
    }
}
