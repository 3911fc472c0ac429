//! Processes that are threads of a test.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use super::{Link, Processes};

/// Runs `work` on `count` threads, each of which stands for a process.
pub(crate) fn on_threads(count: usize, work: impl Fn(Processes) + Send + Sync) {
    let table = Arc::new(Table { barrier: Barrier::new(count), messages: Mutex::new(vec![Vec::new(); count]) });
    let mut links = (0..count).map(|rank| Thread::new(rank, count, &table)).collect::<Vec<_>>();
    for one in 0..count {
        for other in 0..count {
            let (sender, receiver) = channel();
            links[one].senders.push(sender);
            links[other].receivers.push(receiver);
        }
    }
    let work = &work;
    thread::scope(|scope| {
        for link in links {
            scope.spawn(move || work(Processes::connected(link)));
        }
    });
}

/// Where all lay down what they send to all.
struct Table {
    barrier: Barrier,
    messages: Mutex<Vec<Vec<u8>>>,
}

struct Thread {
    rank: usize,
    count: usize,
    table: Arc<Table>,
    senders: Vec<Sender<Vec<u8>>>,
    receivers: Vec<Receiver<Vec<u8>>>,
}

impl Thread {
    fn new(rank: usize, count: usize, table: &Arc<Table>) -> Self {
        Self { rank, count, table: table.clone(), senders: Vec::new(), receivers: Vec::new() }
    }

    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.table.messages.lock().unwrap()[self.rank] = mine.to_vec();
        self.table.barrier.wait();
        let all = self.table.messages.lock().unwrap().clone();
        self.table.barrier.wait();
        all
    }
}

impl Link for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn all_gather(&self, mine: &[u8], all: &mut [u8]) {
        all.copy_from_slice(&self.gather(mine).concat());
    }

    fn all_gather_lengths(&self, mine: &[u8], lengths: &[usize]) -> Vec<u8> {
        let all = self.gather(mine);
        assert!(all.iter().map(Vec::len).eq(lengths.iter().copied()));
        all.concat()
    }

    fn exchange(&self, with: usize, mine: &[u8], theirs: &mut [u8]) {
        self.senders[with].send(mine.to_vec()).unwrap();
        theirs.copy_from_slice(&self.receivers[with].recv().unwrap());
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        let mine = if self.rank == 0 { bytes.to_vec() } else { Vec::new() };
        bytes.copy_from_slice(&self.gather(&mine)[0]);
    }
}
