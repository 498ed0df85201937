//! The answers to the parts of one call, waited for together: whoever waits is woken once, by the last of them.

use std::sync::{Arc, Mutex, PoisonError};

use sluse_schema::port::log::LogError;
use sluse_schema::record::Offset;
use tokio::sync::oneshot;

type Outcome = Result<Offset, LogError>;

#[derive(Debug)]
struct Open {
    outcomes: Vec<Option<Outcome>>,
    num_open: usize,
    tell: Option<oneshot::Sender<Vec<Outcome>>>,
}

/// The answer to one part. Dropped without one, the part's outcome is not known.
#[derive(Debug)]
pub struct Answer {
    open: Arc<Mutex<Open>>,
    place: usize,
    is_given: bool,
}

/// Answers for so many parts (at least one), and where all of them come out, in the order of the parts.
pub fn answers(num_parts: usize) -> (Vec<Answer>, oneshot::Receiver<Vec<Outcome>>) {
    let (tell, told) = oneshot::channel();
    let outcomes = (0..num_parts).map(|_| None).collect();
    let open = Arc::new(Mutex::new(Open { outcomes, num_open: num_parts, tell: Some(tell) }));
    ((0..num_parts).map(|place| Answer { open: Arc::clone(&open), place, is_given: false }).collect(), told)
}

impl Answer {
    /// Says what became of the part.
    pub fn give(mut self, outcome: Outcome) {
        self.set(outcome);
    }

    fn set(&mut self, outcome: Outcome) {
        self.is_given = true;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.outcomes[self.place] = Some(outcome);
        open.num_open -= 1;
        if open.num_open > 0 {
            return;
        }
        let outcomes = open.outcomes.drain(..).flatten().collect();
        if let Some(tell) = open.tell.take() {
            // Nobody may wait any more.
            let _ = tell.send(outcomes);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.is_given {
            self.set(Err(LogError::Unclear("the thread that appends has ended".into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_come_out_with_the_last_one_in_the_order_of_the_parts() {
        let (mut parts, mut told) = answers(3);
        parts.remove(2).give(Ok(Offset(9)));
        parts.remove(0).give(Ok(Offset(1)));
        assert!(told.try_recv().is_err(), "one is still open");
        drop(parts);
        let outcomes = told.try_recv().expect("the last one was dropped");
        assert!(matches!(outcomes[..], [Ok(Offset(1)), Err(LogError::Unclear(_)), Ok(Offset(9))]), "{outcomes:?}");
    }

    #[test]
    fn nobody_has_to_wait_for_them() {
        let (parts, told) = answers(1);
        drop(told);
        parts.into_iter().for_each(|answer| answer.give(Ok(Offset(1))));
    }
}
