//! A plan for each thread: which of its calls fail, and how. No allocation, no destructor, no lock, so that
//! it works inside an allocator.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::os::{Call, Errno, Features, Result, Support};

/// Number of kinds of calls.
const KINDS: usize = Call::ALL.len();

/// Which calls fail: those whose number, counted from 0 for the thread's first, is from `first` on, as many
/// as `times`.
#[derive(Clone, Copy, Debug)]
struct Rule {
    first: usize,
    times: usize,
    errno: Errno,
}

impl Rule {
    fn hits(self, number: usize) -> bool {
        number.checked_sub(self.first).is_some_and(|since| since < self.times)
    }
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// Calls of one kind.
    Kind(Call),
    /// Calls of any kind.
    Any,
}

/// Calls so far, and the rule for the next.
struct Tally {
    calls: Cell<usize>,
    rule: Cell<Option<Rule>>,
}

impl Tally {
    const fn new() -> Self {
        Self { calls: Cell::new(0), rule: Cell::new(None) }
    }

    /// Counts a call and tells whether it fails.
    fn note(&self) -> Result<()> {
        let number = self.calls.get();
        self.calls.set(number.wrapping_add(1));
        match self.rule.get() {
            Some(rule) if rule.hits(number) => Err(rule.errno),
            _ => Ok(()),
        }
    }
}

struct Plan {
    kinds: [Tally; KINDS],
    any: Tally,
}

impl Plan {
    fn tally(&self, subject: Subject) -> &Tally {
        match subject {
            Subject::Kind(call) => self.kinds.get(call.index()).unwrap_or(&self.any),
            Subject::Any => &self.any,
        }
    }
}

thread_local! {
    static PLAN: Plan = const { Plan { kinds: [const { Tally::new() }; KINDS], any: Tally::new() } };
}

/// Counts a call of this thread and makes it fail if the plan says so.
pub(in crate::os) fn gate(call: Call) -> Result<()> {
    PLAN.with(|plan| {
        let any = plan.tally(Subject::Any).note();
        plan.tally(Subject::Kind(call)).note().and(any)
    })
}

/// Reports what always fails on this thread as not offered.
pub(in crate::os) fn adjust(features: Features) -> Features {
    let unless_failing = |call, support| {
        let rule = PLAN.with(|plan| plan.tally(Subject::Kind(call)).rule.get());
        match rule {
            Some(Rule { times: usize::MAX, errno, .. }) => Support::No(errno),
            _ => support,
        }
    };
    Features {
        guard_install: unless_failing(Call::InstallGuard, features.guard_install),
        io_uring: unless_failing(Call::RingSetup, features.io_uring),
        hidden: unless_failing(Call::Hide, features.hidden),
        ..features
    }
}

/// Makes a call fail: of all calls of this kind that this thread makes from now on, the one with this number,
/// counted from 0. Ends with the value that it returns.
pub(crate) fn fail(call: Call, nth: usize, errno: Errno) -> Fault {
    Fault::new(Subject::Kind(call), nth, 1, errno)
}

/// Makes every call of this kind fail that this thread makes from now on.
pub(crate) fn fail_always(call: Call, errno: Errno) -> Fault {
    Fault::new(Subject::Kind(call), 0, usize::MAX, errno)
}

/// How many calls of this kind this thread has made so far, failed ones included.
pub(crate) fn count(call: Call) -> usize {
    PLAN.with(|plan| plan.tally(Subject::Kind(call)).calls.get())
}

/// Runs `body` once as it is, then once for each call that it made, with that call failing, and on while
/// more calls come: a run that survives a failure may go on to calls that no run made before. `body` gets the
/// number of the call that fails. Returns the number of runs with a failure.
pub(crate) fn every_call_in_turn(errno: Errno, mut body: impl FnMut(Option<usize>)) -> usize {
    body(None);
    let mut nth = 0;
    loop {
        let before = calls_of_any_kind();
        let fault = Fault::new(Subject::Any, nth, 1, errno);
        body(Some(nth));
        drop(fault);
        if calls_of_any_kind().wrapping_sub(before) <= nth {
            // The body ended before the call that was to fail: every call has had its turn.
            return nth;
        }
        nth = nth.wrapping_add(1);
    }
}

fn calls_of_any_kind() -> usize {
    PLAN.with(|plan| plan.tally(Subject::Any).calls.get())
}

/// A planned failure. Dropping it restores what was planned before.
#[must_use = "the failure is planned only as long as this lives"]
#[derive(Debug)]
pub(crate) struct Fault {
    subject: Subject,
    before: Option<Rule>,
    /// The plan is this thread's.
    not_send: PhantomData<*const ()>,
}

impl Fault {
    fn new(subject: Subject, skip: usize, times: usize, errno: Errno) -> Self {
        PLAN.with(|plan| {
            let tally = plan.tally(subject);
            let first = tally.calls.get().wrapping_add(skip);
            let before = tally.rule.replace(Some(Rule { first, times, errno }));
            Self { subject, before, not_send: PhantomData }
        })
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        PLAN.with(|plan| plan.tally(self.subject).rule.set(self.before));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::os;

    #[test]
    fn only_the_nth_call_of_a_kind_fails() {
        let fault = fail(Call::Random, 1, Errno::AGAIN);
        let mut bytes = [0; 8];
        assert_eq!(os::fill_random(&mut bytes), Ok(()));
        assert_eq!(os::fill_random(&mut bytes), Err(Errno::AGAIN));
        assert_eq!(os::fill_random(&mut bytes), Ok(()));
        drop(fault);
        assert_eq!(count(Call::Random), 3);
    }

    #[test]
    fn every_call_fails_until_the_fault_ends() {
        let outer = fail_always(Call::Random, Errno::PERM);
        let inner = fail_always(Call::Random, Errno::NOSYS);
        assert_eq!(os::fill_random(&mut [0]), Err(Errno::NOSYS));
        drop(inner);
        assert_eq!(os::fill_random(&mut [0]), Err(Errno::PERM));
        drop(outer);
        assert_eq!(os::fill_random(&mut [0]), Ok(()));
    }

    #[test]
    fn another_thread_has_a_plan_of_its_own() {
        let _fault = fail_always(Call::Random, Errno::PERM);
        std::thread::spawn(|| assert_eq!(os::fill_random(&mut [0]), Ok(()))).join().unwrap();
    }

    #[test]
    fn every_call_gets_its_turn_also_those_made_after_a_failure() {
        let mut failures = Vec::new();
        let runs = every_call_in_turn(Errno::NOMEM, |_| {
            let first = os::fill_random(&mut [0]);
            // A step down: one more call, which no run without a failure makes.
            let second = first.and_then(|()| os::fill_random(&mut [0]));
            let third = if second.is_err() { os::fill_random(&mut [0]) } else { Ok(()) };
            failures.push((first.is_err(), second.is_err(), third.is_err()));
        });
        assert_eq!(runs, 2);
        assert_eq!(
            failures,
            [(false, false, false), (true, true, false), (false, true, false), (false, false, false),]
        );
    }

    #[test]
    fn what_always_fails_is_not_offered() {
        let _fault = fail_always(Call::InstallGuard, Errno::INVAL);
        assert_eq!(os::features().guard_install, Support::No(Errno::INVAL));
    }
}
