//! Devmaps made in advance, and the numbers of member tables.
//!
//! Putting a map into a map of maps waits for every CPU to have left the old one: 8 to 16 ms. A
//! join must not wait for that, so a thread keeps a stock of empty devmaps of each size. It also
//! takes devmaps out that are no longer used, and holds back what was given up for as long as somebody
//! may still come there ([`Until`]).

use std::{
    collections::VecDeque,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread::JoinHandle,
};

use aya::maps::Map;
use vmcast_common::{
    fib::Output,
    maps::{self, HeadKey, MemberKey, limit},
};

use super::{
    devmap::{Devmap, LARGEST, SIZES},
    error::KernelError,
    filler::Filler,
    index::Indices,
    member_table::WAYS,
    outer::OuterMap,
    shapes::ShapeId,
};

const _: () = assert!(LARGEST >= (limit::CHUNK + WAYS) as usize);
/// How many of each size are in stock at first. Tables that grow have the smallest and the largest.
const FIRST_STOCK: [usize; SIZES.len()] = [64, 32, 32, 16, 16, 32];
/// Largest stock of a size. It doubles each time that it is found nearly used up: so many more are made before the next
/// burst of joins comes. The thread makes 64 in some 20 ms.
const MAX_STOCK: [usize; SIZES.len()] = [512, 512, 256, 128, 128, 256];
/// The share of a stock that is left when it is found nearly used up: one in so many.
const LEFT: usize = 4;

/// What must not be used again while somebody may be walking there.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Indices of members.
    pub(crate) members: Vec<u32>,
    /// The lists of a table that is gone.
    pub(crate) heads: Vec<HeadKey>,
    /// Indices of next hops.
    pub(crate) hops: Vec<u32>,
    /// Indices of streams' counters and lists.
    pub(crate) stats: Vec<u32>,
    /// Numbers of member tables.
    pub(crate) tables: Vec<u32>,
    /// Shapes that these had.
    pub(crate) shapes: Vec<ShapeId>,
    /// What members have missed that have left their streams: of which stream, which output, and by what name.
    pub(crate) missed: Vec<(u32, Output, MemberKey)>,
}

impl Remains {
    /// Whether there is nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        let Self { members, heads, hops, stats, tables, shapes, missed } = self;
        members.is_empty()
            && heads.is_empty()
            && hops.is_empty()
            && stats.is_empty()
            && tables.is_empty()
            && shapes.is_empty()
            && missed.is_empty()
    }
}

/// How long somebody may still come to a place that nothing leads to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// While programs run that have begun already.
    Walked,
    /// While frames wait before a relay device that carry its number.
    Relayed,
}

/// Where devmaps and numbers of tables come from and go back to.
pub(super) trait Tables {
    /// A number for a table, never 0. It is that of one table with one set of lists, and comes again only after
    /// many others.
    fn number(&mut self) -> Result<u32, KernelError>;
    /// An empty devmap with at least `slots` slots.
    fn devmap(&mut self, slots: usize) -> Result<Devmap, KernelError>;
    /// Gives back what nothing leads to any more.
    fn retire(&mut self, devmap: Option<Devmap>, remains: Remains, until: Until);
    /// What was left behind, once nobody comes there any more.
    fn poll_remains(&mut self) -> Option<Remains>;
}

/// What the thread is to do.
pub(super) enum Order {
    Make { size: usize, count: usize },
    Retire { devmap: Option<Devmap>, remains: Box<Remains>, until: Until },
}

/// What it has done.
pub(super) enum Delivery {
    Devmap(Devmap),
    Remains(Remains),
    /// So many devmaps of an order were not made.
    Failed {
        size: usize,
        count: usize,
        error: KernelError,
    },
}

/// The stock and the thread that fills it.
pub(super) struct TablePool {
    orders: Option<Sender<Order>>,
    deliveries: Receiver<Delivery>,
    stock: [VecDeque<Devmap>; SIZES.len()],
    target: [usize; SIZES.len()],
    ordered: [usize; SIZES.len()],
    remains: VecDeque<Remains>,
    failures: u64,
    /// How often a table had to wait for a devmap.
    waits: u64,
    /// Places of member tables.
    places: Indices,
    /// How often each place was used.
    uses: Vec<u32>,
    thread: Option<JoinHandle<()>>,
}

impl TablePool {
    /// Starts the thread, which lays in a stock if tables will be needed, of which there are so many at `most`.
    pub(super) fn start(outer: Map, tables: bool, most: u32) -> Result<Self, KernelError> {
        let (orders, order_queue) = mpsc::channel();
        let (delivery_queue, deliveries) = mpsc::channel();
        let filler = Filler::new(OuterMap::new(outer)?, most);
        let thread = std::thread::Builder::new()
            .name("vmcast-tables".into())
            .spawn(move || filler.run(&order_queue, &delivery_queue))
            .map_err(KernelError::call("starting the table thread"))?;
        let mut pool = Self::new(orders, deliveries, most);
        pool.thread = Some(thread);
        if tables {
            for size in 0..SIZES.len() {
                pool.order(size);
            }
        }
        Ok(pool)
    }

    fn new(orders: Sender<Order>, deliveries: Receiver<Delivery>, most: u32) -> Self {
        Self {
            orders: Some(orders),
            deliveries,
            stock: Default::default(),
            target: FIRST_STOCK,
            ordered: [0; SIZES.len()],
            remains: VecDeque::new(),
            failures: 0,
            waits: 0,
            places: Indices::new(maps::TABLES, most + 1),
            uses: Vec::new(),
            thread: None,
        }
    }

    /// Orders what is missing to the target, once the stock is half empty.
    fn order(&mut self, size: usize) {
        let coming = self.stock[size].len() + self.ordered[size];
        if coming * 2 > self.target[size] || self.target[size] == 0 {
            return;
        }
        let count = self.target[size] - coming;
        self.ordered[size] += count;
        self.send(Order::Make { size, count });
    }

    /// Orders for a stock that was found empty.
    fn more(&mut self, size: usize) {
        self.target[size] = (self.target[size] * 2).clamp(1, MAX_STOCK[size]);
        self.order(size);
    }

    /// Takes a devmap of a size, or a larger one rather than none: an empty slot costs a packet little, and the next
    /// change of the table takes another one. Orders ahead of need.
    fn take(&mut self, size: usize) -> Option<Devmap> {
        let devmap = self.stock[size..].iter_mut().find_map(VecDeque::pop_front)?;
        let target = self.target[size];
        // After a failure the stock grows only as devmaps are made, and never again before more have come.
        if target > 0 && self.stock[size].len() * LEFT < target && self.ordered[size] * 2 <= target {
            self.more(size);
        } else {
            self.order(size);
        }
        if devmap.size() != size {
            self.order(devmap.size());
        }
        Some(devmap)
    }

    /// How often a table had to wait for a devmap, as the stock had none that was large enough.
    pub(super) const fn waits(&self) -> u64 {
        self.waits
    }

    /// Whether every devmap that was ordered has come.
    pub(super) fn is_stocked(&mut self) -> bool {
        self.accept_waiting();
        self.ordered.iter().all(|count| *count == 0)
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread ends only when this sender is dropped; if it panicked, `take` says so.
            let _ = orders.send(order);
        }
    }

    fn accept(&mut self, delivery: Delivery) -> Result<(), (usize, KernelError)> {
        match delivery {
            Delivery::Devmap(devmap) => {
                let size = devmap.size();
                self.ordered[size] = self.ordered[size].saturating_sub(1);
                self.stock[size].push_back(devmap);
                Ok(())
            }
            Delivery::Remains(remains) => {
                self.remains.push_back(remains);
                Ok(())
            }
            Delivery::Failed { size, count, error } => {
                self.ordered[size] = self.ordered[size].saturating_sub(count);
                // From here one table is ordered when one is needed, and more only as that succeeds.
                self.target[size] = 0;
                Err((size, error))
            }
        }
    }

    /// Tells the operator of failures 1, 2, 4, 8 and so on: a peer can provoke many.
    fn note_failure(&mut self, size: usize, error: &KernelError) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let (slots, failures) = (SIZES[size], self.failures);
            tracing::warn!(slots, failures, %error, "devmaps cannot be made in advance");
        }
    }

    /// Lets something wait that no devmap goes with.
    pub(super) fn wait(&self, remains: Remains, until: Until) {
        if !remains.is_empty() {
            self.send(Order::Retire { devmap: None, remains: Box::new(remains), until });
        }
    }

    /// Takes the number of a table back.
    pub(super) fn give_back(&mut self, table: u32) {
        self.places.give_back(maps::table_place(table));
    }

    fn accept_waiting(&mut self) {
        loop {
            match self.deliveries.try_recv() {
                Ok(delivery) => {
                    if let Err((size, error)) = self.accept(delivery) {
                        self.note_failure(size, &error);
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }
}

impl Tables for TablePool {
    fn number(&mut self) -> Result<u32, KernelError> {
        let place = self.places.take()?;
        let index = place as usize;
        if self.uses.len() <= index {
            self.uses.resize(index + 1, 0);
        }
        self.uses[index] = self.uses[index].wrapping_add(1);
        Ok(place | self.uses[index].wrapping_mul(limit::TABLES))
    }

    fn devmap(&mut self, slots: usize) -> Result<Devmap, KernelError> {
        let size = SIZES
            .iter()
            .position(|&size| size as usize >= slots)
            .ok_or(KernelError::Full { table: "members of one stream", limit: SIZES[SIZES.len() - 1] })?;
        self.accept_waiting();
        if let Some(devmap) = self.take(size) {
            return Ok(devmap);
        }
        self.waits += 1;
        self.more(size);
        loop {
            if let Some(devmap) = self.take(size) {
                return Ok(devmap);
            }
            let delivery = self
                .deliveries
                .recv()
                .map_err(|_| KernelError::call("waiting for a devmap")("its thread has ended"))?;
            if let Err((failed, error)) = self.accept(delivery) {
                if failed == size {
                    return Err(error);
                }
                self.note_failure(failed, &error);
            }
        }
    }

    fn retire(&mut self, devmap: Option<Devmap>, remains: Remains, until: Until) {
        self.send(Order::Retire { devmap, remains: Box::new(remains), until });
    }

    fn poll_remains(&mut self) -> Option<Remains> {
        self.accept_waiting();
        self.remains.pop_front()
    }
}

impl Drop for TablePool {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bed {
        pool: TablePool,
        orders: Receiver<Order>,
        deliveries: Sender<Delivery>,
    }

    impl Bed {
        fn new() -> Self {
            let (orders, order_queue) = mpsc::channel();
            let (deliveries, delivery_queue) = mpsc::channel();
            Self {
                pool: TablePool::new(orders, delivery_queue, limit::TABLES - 1),
                orders: order_queue,
                deliveries,
            }
        }

        /// How many devmaps of the smallest size were ordered since the last time.
        fn ordered(&self) -> Vec<usize> {
            let count = |order| match order {
                Order::Make { size: 0, count } => Some(count),
                Order::Make { .. } | Order::Retire { .. } => None,
            };
            self.orders.try_iter().filter_map(count).collect()
        }

        fn deliver(&self, delivery: Delivery) {
            self.deliveries.send(delivery).unwrap();
        }
    }

    #[test]
    fn after_a_failure_devmaps_are_ordered_one_at_a_time_until_that_succeeds() {
        let mut bed = Bed::new();
        for _ in 0..2 {
            bed.pool.more(0);
            let count: usize = bed.ordered().iter().sum();
            let error = KernelError::call("creating a devmap")("out of room");
            assert!(bed.pool.accept(Delivery::Failed { size: 0, count, error }).is_err());
            assert_eq!(bed.pool.ordered[0], 0);
        }
        let mut id = 0;
        for wanted in [1, 2, 4] {
            bed.pool.more(0);
            assert_eq!(bed.ordered(), [wanted]);
            for _ in 0..wanted {
                id += 1;
                bed.pool.accept(Delivery::Devmap(Devmap::new(id, 0, None))).unwrap();
            }
            bed.pool.stock[0].clear();
        }
    }

    #[test]
    fn failures_of_another_size_do_not_spoil_a_devmap() {
        let mut bed = Bed::new();
        let error = KernelError::call("creating a devmap")("out of room");
        bed.deliver(Delivery::Failed { size: 0, count: 3, error });
        bed.deliver(Delivery::Devmap(Devmap::new(9, 1, None)));
        assert_eq!(bed.pool.devmap(8).unwrap().place(), 9);
        assert_eq!((bed.pool.failures, bed.pool.target[0]), (1, 0));
    }

    #[test]
    fn a_burst_takes_larger_devmaps_before_it_waits_and_the_stock_grows_ahead_of_the_next() {
        let mut bed = Bed::new();
        for place in 1..=24 {
            bed.deliver(Delivery::Devmap(Devmap::new(place, usize::from(place > 16), None)));
        }
        let taken: Vec<usize> = (0..24).map(|_| bed.pool.devmap(4).unwrap().size()).collect();
        assert_eq!(taken, [[0; 8], [0; 8], [1; 8]].concat());
        assert_eq!((bed.pool.waits(), bed.pool.target[0]), (0, 2 * FIRST_STOCK[0]));
        // All that was ordered comes, and a burst of as many is served without a wait.
        let ordered: usize = bed.ordered().iter().sum();
        assert!(ordered > 3 * 24, "{ordered} were ordered");
        (0..ordered as u32)
            .for_each(|place| bed.deliver(Delivery::Devmap(Devmap::new(100 + place, 0, None))));
        (0..ordered).for_each(|_| drop(bed.pool.devmap(3).unwrap()));
        assert_eq!(bed.pool.waits(), 0);
        // A wait is counted.
        let error = KernelError::call("creating a devmap")("out of room");
        let deliveries = bed.deliveries.clone();
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            deliveries.send(Delivery::Failed { size: 0, count: 1, error }).unwrap();
        });
        assert!(bed.pool.devmap(3).is_err());
        late.join().unwrap();
        assert_eq!(bed.pool.waits(), 1);
    }

    #[test]
    fn retired_devmaps_do_not_fill_the_stock() {
        let mut bed = Bed::new();
        for id in 1..=500 {
            let remains = || Remains { members: vec![id], ..Remains::default() };
            bed.pool.retire(Some(Devmap::new(id, 0, None)), remains(), Until::Walked);
            bed.deliver(Delivery::Remains(remains()));
        }
        assert_eq!(std::iter::from_fn(|| bed.pool.poll_remains()).count(), 500);
        assert!(bed.pool.stock.iter().all(VecDeque::is_empty));
        assert_eq!(bed.ordered(), [0; 0]);
    }

    #[test]
    fn a_number_comes_again_only_with_another_use_of_its_place() {
        let mut bed = Bed::new();
        let first = bed.pool.number().unwrap();
        bed.pool.give_back(first);
        let second = bed.pool.number().unwrap();
        assert_eq!(maps::table_place(first), maps::table_place(second));
        assert_ne!(first, second);
    }
}
