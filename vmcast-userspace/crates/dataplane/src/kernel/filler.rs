//! The thread that makes member tables and takes them out again.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use vmcast_common::maps::{self, limit};

use super::{
    error::KernelError,
    index::Indices,
    pool::{Delivery, Devmap, Order, Remains, SIZES, TableLease, Until},
};

/// Tables that are made before they are stored together: each has a descriptor until then.
const BATCH: usize = 32;
/// How long the thread waits before it tries again to take out a table that the kernel did not let go.
const RETRY: Duration = Duration::from_secs(1);
/// How long frames may wait before a relay device at most: its ring has 256 places, and the kernel polls it as
/// soon as it comes to.
const RELAYED: Duration = Duration::from_secs(1);
/// The place of no table: what waits without one is stored here.
const NOWHERE: u32 = 0;

/// What the thread asks of the kernel; a test puts a model in this place.
pub(super) trait TableMaker {
    /// A table that is not stored yet.
    type Fresh;
    /// Makes a table.
    fn create(&mut self, slots: u32) -> Result<Self::Fresh, KernelError>;
    /// Stores tables at their places, `None` for nothing. After it nobody walks what was there before.
    fn store(&mut self, tables: &[(u32, Option<&Self::Fresh>)]) -> Result<(), KernelError>;
    /// What is kept of a table that is stored.
    fn settle(&self, table: Self::Fresh) -> Option<Devmap>;
}

/// The thread's side of the pool.
pub(super) struct Filler<K> {
    kernel: K,
    /// Places in the map of maps.
    places: Indices,
    /// How often each place was used.
    uses: Vec<u32>,
    /// Places whose tables are to be taken out, and what these leave behind.
    retired: Vec<(u32, Remains)>,
    /// The same for tables that frames before a relay device may name until then.
    relayed: VecDeque<(Instant, u32, Remains)>,
}

impl<K: TableMaker> Filler<K> {
    pub(super) fn new(kernel: K) -> Self {
        let places = Indices::new(maps::TABLES, limit::TABLES);
        Self { kernel, places, uses: Vec::new(), retired: Vec::new(), relayed: VecDeque::new() }
    }

    /// Works until the pool is dropped.
    pub(super) fn run(mut self, orders: &Receiver<Order>, deliveries: &Sender<Delivery>) {
        loop {
            let first = if self.retired.is_empty() && self.relayed.is_empty() {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(RETRY)
            };
            let first = match first {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            #[expect(clippy::disallowed_methods, reason = "the thread itself is the layer of I/O")]
            let now = Instant::now();
            self.fill(now, first.into_iter().chain(orders.try_iter()), |delivery| {
                // The pool is being dropped if nobody takes it.
                let _ = deliveries.send(delivery);
            });
        }
    }

    /// Carries out orders that came together.
    fn fill(&mut self, now: Instant, orders: impl Iterator<Item = Order>, mut deliver: impl FnMut(Delivery)) {
        let mut wanted = [0; SIZES.len()];
        for order in orders {
            match order {
                Order::Make { size, count } => wanted[size] += count,
                Order::Retire { table, remains, until } => {
                    let place = table.map_or(NOWHERE, |table| maps::table_place(table.id()));
                    match until {
                        Until::Walked => self.retired.push((place, remains)),
                        Until::Relayed => self.relayed.push_back((now + RELAYED, place, remains)),
                    }
                }
            }
        }
        let over = self.relayed.iter().take_while(|(until, ..)| *until <= now).count();
        self.retired.extend(self.relayed.drain(..over).map(|(_, place, remains)| (place, remains)));
        for (size, mut left) in wanted.into_iter().enumerate() {
            while left > 0 {
                let (made, missing) = self.make(size, left.min(BATCH));
                let stored = self.store(size, made, &mut deliver);
                left -= stored.as_ref().copied().unwrap_or(0);
                // What is missing now would be missing for the rest of the order as well.
                if let Some(error) = stored.err().or(missing) {
                    deliver(Delivery::Failed { size, count: left, error });
                    break;
                }
            }
        }
        if !self.retired.is_empty()
            && let Err(error) = self.store(0, Vec::new(), &mut deliver)
        {
            tracing::debug!(%error, waiting = self.retired.len(), "tables could not be taken out yet");
        }
    }

    /// Makes up to so many tables, and says why they are not as many.
    fn make(&mut self, size: usize, count: usize) -> (Vec<(u32, K::Fresh)>, Option<KernelError>) {
        let mut made = Vec::with_capacity(count);
        while made.len() < count {
            let table = self.places.take().and_then(|place| {
                let table = self.kernel.create(SIZES[size]);
                table.map(|table| (place, table)).inspect_err(|_| self.places.give_back(place))
            });
            match table {
                Ok(table) => made.push(table),
                Err(error) => return (made, Some(error)),
            }
        }
        (made, None)
    }

    /// Stores fresh tables, and takes the retired ones out with the same wait. Returns how many fresh
    /// ones are in use.
    fn store(
        &mut self,
        size: usize,
        made: Vec<(u32, K::Fresh)>,
        mut deliver: impl FnMut(Delivery),
    ) -> Result<usize, KernelError> {
        let fresh = made.iter().map(|(place, table)| (*place, Some(table)));
        let gone = self.retired.iter().map(|(place, _)| (*place, None));
        let changes: Vec<_> = fresh.chain(gone).collect();
        if let Err(error) = self.kernel.store(&changes) {
            // Packets may still walk what was retired: it waits for the next time.
            made.iter().for_each(|(place, _)| self.places.give_back(*place));
            return Err(error);
        }
        let count = made.len();
        for (place, table) in made {
            let devmap = self.kernel.settle(table);
            deliver(Delivery::Table(TableLease::new(self.number(place), size, devmap)));
        }
        for (place, remains) in self.retired.drain(..) {
            if place != NOWHERE {
                self.places.give_back(place);
            }
            deliver(Delivery::Remains(remains));
        }
        Ok(count)
    }

    /// The next number of a place.
    fn number(&mut self, place: u32) -> u32 {
        let index = place as usize;
        if self.uses.len() <= index {
            self.uses.resize(index + 1, 0);
        }
        self.uses[index] = self.uses[index].wrapping_add(1);
        place | self.uses[index].wrapping_mul(limit::TABLES)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::LazyLock};

    use super::*;

    /// A kernel with room for so many tables.
    #[derive(Default)]
    struct Model {
        room: usize,
        stored: BTreeSet<u32>,
        refuses: bool,
        creations: usize,
        largest_store: usize,
    }

    impl TableMaker for Model {
        type Fresh = ();

        fn create(&mut self, _slots: u32) -> Result<(), KernelError> {
            self.creations += 1;
            self.room = self.room.checked_sub(1).ok_or_else(|| KernelError::call("creating")("no room"))?;
            Ok(())
        }

        fn store(&mut self, tables: &[(u32, Option<&()>)]) -> Result<(), KernelError> {
            if self.refuses {
                return Err(KernelError::call("storing")("refused"));
            }
            let fresh = tables.iter().filter(|(_, table)| table.is_some()).count();
            self.largest_store = self.largest_store.max(fresh);
            for (place, table) in tables.iter().filter(|(place, _)| *place != NOWHERE) {
                let changed =
                    if table.is_some() { self.stored.insert(*place) } else { self.stored.remove(place) };
                assert!(changed, "place {place} was not as the thread believes");
            }
            Ok(())
        }

        fn settle(&self, (): ()) -> Option<Devmap> {
            None
        }
    }

    fn filler(room: usize) -> Filler<Model> {
        Filler::new(Model { room, ..Model::default() })
    }

    #[expect(clippy::disallowed_methods, reason = "a time to count from")]
    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// Tables, members left behind, and counts of what failed.
    fn fill(
        filler: &mut Filler<Model>,
        now: Instant,
        orders: impl IntoIterator<Item = Order>,
    ) -> (Vec<TableLease>, Vec<u32>, Vec<usize>) {
        let (mut tables, mut members, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        filler.fill(now, orders.into_iter(), |delivery| match delivery {
            Delivery::Table(table) => tables.push(table),
            Delivery::Remains(remains) => members.extend(remains.members),
            Delivery::Failed { count, .. } => failed.push(count),
        });
        (tables, members, failed)
    }

    fn retire(table: TableLease, member: u32) -> Order {
        let remains = Remains { members: vec![member], ..Remains::default() };
        Order::Retire { table: Some(Box::new(table)), remains, until: Until::Walked }
    }

    #[test]
    fn an_order_ends_at_the_first_table_that_cannot_be_made() {
        let mut filler = filler(40);
        let (tables, _, failed) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1000 }]);
        assert_eq!((tables.len(), failed), (40, vec![960]));
        assert_eq!((filler.kernel.creations, filler.kernel.stored.len()), (41, 40));
    }

    #[test]
    fn a_large_order_has_few_descriptors_open_at_once() {
        let mut filler = filler(1000);
        let (tables, _, failed) = fill(&mut filler, *NOW, [Order::Make { size: 2, count: 1000 }]);
        assert_eq!((tables.len(), failed.len(), filler.kernel.largest_store), (1000, 0, BATCH));
        let numbers: BTreeSet<u32> = tables.iter().map(TableLease::id).collect();
        assert_eq!((numbers.len(), tables[0].slots()), (1000, SIZES[2]));
    }

    #[test]
    fn a_retired_table_gives_its_place_back_with_another_number() {
        let mut filler = filler(2);
        let (mut tables, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        let old = tables.remove(0);
        let old_id = old.id();
        let (tables, members, _) = fill(&mut filler, *NOW, [retire(old, 7)]);
        assert_eq!((tables.len(), members, filler.kernel.stored.len()), (0, vec![7], 0));
        let (tables, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        assert_eq!(maps::table_place(tables[0].id()), maps::table_place(old_id));
        assert_ne!(tables[0].id(), old_id);
    }

    #[test]
    fn what_a_table_leaves_behind_waits_until_the_kernel_has_let_it_go() {
        let mut filler = filler(2);
        let (mut tables, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        filler.kernel.refuses = true;
        let orders = [Order::Make { size: 0, count: 1 }, retire(tables.remove(0), 7)];
        let (tables, members, failed) = fill(&mut filler, *NOW, orders);
        assert_eq!((tables.len(), members.len(), failed), (0, 0, vec![1]));
        let (_, members, _) = fill(&mut filler, *NOW, []);
        assert_eq!((members.len(), filler.kernel.stored.len()), (0, 1));
        filler.kernel.refuses = false;
        let (_, members, _) = fill(&mut filler, *NOW, []);
        assert_eq!((members, filler.kernel.stored.len()), (vec![7], 0));
    }

    #[test]
    fn a_table_is_taken_out_also_when_no_other_can_be_made() {
        let mut filler = filler(1);
        let (mut tables, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        let orders = [Order::Make { size: 0, count: 1 }, retire(tables.remove(0), 7)];
        let (_, members, failed) = fill(&mut filler, *NOW, orders);
        assert_eq!((members, failed), (vec![7], vec![1]));
    }

    #[test]
    fn a_table_that_frames_before_a_relay_may_name_stays_for_as_long_as_they_may_wait() {
        let mut filler = filler(1);
        let (mut tables, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        let remains = |member| Remains { members: vec![member], ..Remains::default() };
        let table = Some(Box::new(tables.remove(0)));
        let orders = [
            Order::Retire { table, remains: remains(7), until: Until::Relayed },
            Order::Retire { table: None, remains: remains(8), until: Until::Walked },
        ];
        let (_, members, _) = fill(&mut filler, *NOW, orders);
        assert_eq!((members, filler.kernel.stored.len()), (vec![8], 1));
        let (_, members, _) = fill(&mut filler, *NOW + RELAYED - Duration::from_millis(1), []);
        assert!(members.is_empty());
        let (_, members, _) = fill(&mut filler, *NOW + RELAYED, []);
        assert_eq!((members, filler.kernel.stored.len()), (vec![7], 0));
    }
}
