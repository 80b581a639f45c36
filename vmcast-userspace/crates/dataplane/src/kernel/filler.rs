//! The thread that makes devmaps and takes them out again.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use vmcast_common::maps;

use super::{
    devmap::{Devmap, Handle, SIZES},
    error::KernelError,
    index::Indices,
    pool::{Delivery, Order, Remains, Until},
};

/// Devmaps that are made before they are stored together: each has a descriptor until then.
const BATCH: usize = 32;
/// How long the thread waits before it takes out what it could not, or did not yet.
const RETRY: Duration = Duration::from_secs(1);
/// How long frames may wait before a relay device at most: its ring has 256 places, and the kernel polls it as
/// soon as it comes to.
const RELAYED: Duration = Duration::from_secs(1);
/// The place of no devmap: to store nothing here is to wait and nothing else.
const NOWHERE: u32 = 0;

/// What the thread asks of the kernel; a test puts a model in this place.
pub(super) trait DevmapMaker {
    /// A devmap that is not stored yet.
    type Fresh;
    /// Makes a devmap.
    fn create(&mut self, slots: u32) -> Result<Self::Fresh, KernelError>;
    /// Stores devmaps at their places, `None` for nothing. After it no program runs that had begun before.
    fn store(&mut self, devmaps: &[(u32, Option<&Self::Fresh>)]) -> Result<(), KernelError>;
    /// What is kept of a devmap that is stored.
    fn settle(&self, devmap: Self::Fresh) -> Option<Handle>;
}

/// The thread's side of the pool.
pub(super) struct Filler<K> {
    kernel: K,
    /// Places in the map of maps.
    places: Indices,
    /// What was given up since the kernel was last waited for: a program that has begun may have read the way
    /// there and not gone it yet.
    left: Vec<(u32, Remains)>,
    /// Devmaps that nobody comes to any more, to be taken out.
    retired: Vec<u32>,
    /// What frames before a relay device may name until then.
    relayed: VecDeque<(Instant, u32, Remains)>,
}

impl<K: DevmapMaker> Filler<K> {
    /// One that makes so many devmaps at most.
    pub(super) fn new(kernel: K, most: u32) -> Self {
        let places = Indices::new(maps::DEVMAPS, most + 1);
        Self { kernel, places, left: Vec::new(), retired: Vec::new(), relayed: VecDeque::new() }
    }

    /// Works until the pool is dropped.
    pub(super) fn run(mut self, orders: &Receiver<Order>, deliveries: &Sender<Delivery>) {
        loop {
            let first = if self.left.is_empty() && self.retired.is_empty() && self.relayed.is_empty() {
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
                Order::Retire { devmap, remains, until } => {
                    let place = devmap.map_or(NOWHERE, |devmap| devmap.place());
                    match until {
                        Until::Walked => self.left.push((place, *remains)),
                        Until::Relayed => self.relayed.push_back((now + RELAYED, place, *remains)),
                    }
                }
            }
        }
        let over = self.relayed.iter().take_while(|(until, ..)| *until <= now).count();
        self.left.extend(self.relayed.drain(..over).map(|(_, place, remains)| (place, remains)));
        for (size, mut missing) in wanted.into_iter().enumerate() {
            while missing > 0 {
                let (made, refusal) = self.make(size, missing.min(BATCH));
                let stored = self.store(size, made, &mut deliver);
                missing -= stored.as_ref().copied().unwrap_or(0);
                // What is missing now would be missing for the rest of the order as well.
                if let Some(error) = stored.err().or(refusal) {
                    deliver(Delivery::Failed { size, count: missing, error });
                    break;
                }
            }
        }
        if (!self.left.is_empty() || !self.retired.is_empty())
            && let Err(error) = self.store(0, Vec::new(), &mut deliver)
        {
            let waiting = self.left.len() + self.retired.len();
            tracing::debug!(%error, waiting, "devmaps could not be taken out yet");
        }
    }

    /// Makes up to so many devmaps, and says why they are not as many.
    fn make(&mut self, size: usize, count: usize) -> (Vec<(u32, K::Fresh)>, Option<KernelError>) {
        let mut made = Vec::with_capacity(count);
        while made.len() < count {
            let devmap = self.places.take().and_then(|place| {
                let devmap = self.kernel.create(SIZES[size]);
                devmap.map(|devmap| (place, devmap)).inspect_err(|_| self.places.give_back(place))
            });
            match devmap {
                Ok(devmap) => made.push(devmap),
                Err(error) => return (made, Some(error)),
            }
        }
        (made, None)
    }

    /// Stores fresh devmaps, and takes the retired ones out with the same wait. What was left before it is
    /// free after it. Returns how many fresh ones are in use.
    fn store(
        &mut self,
        size: usize,
        made: Vec<(u32, K::Fresh)>,
        mut deliver: impl FnMut(Delivery),
    ) -> Result<usize, KernelError> {
        let fresh = made.iter().map(|(place, devmap)| (*place, Some(devmap)));
        let gone = self.retired.iter().map(|place| (*place, None));
        let mut changes: Vec<_> = fresh.chain(gone).collect();
        if changes.is_empty() && !self.left.is_empty() {
            changes.push((NOWHERE, None));
        }
        if let Err(error) = self.kernel.store(&changes) {
            // Packets may still come to what was given up: it waits for the next time.
            made.iter().for_each(|(place, _)| self.places.give_back(*place));
            return Err(error);
        }
        let count = made.len();
        for (place, devmap) in made {
            deliver(Delivery::Devmap(Devmap::new(place, size, self.kernel.settle(devmap))));
        }
        self.retired.drain(..).for_each(|place| self.places.give_back(place));
        for (place, remains) in self.left.drain(..) {
            if place != NOWHERE {
                self.retired.push(place);
            }
            if !remains.is_empty() {
                deliver(Delivery::Remains(remains));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::LazyLock};

    use vmcast_common::maps::limit;

    use super::*;

    /// A kernel with room for so many devmaps.
    #[derive(Default)]
    struct Model {
        room: usize,
        stored: BTreeSet<u32>,
        refuses: bool,
        creations: usize,
        largest_store: usize,
    }

    impl DevmapMaker for Model {
        type Fresh = ();

        fn create(&mut self, _slots: u32) -> Result<(), KernelError> {
            self.creations += 1;
            self.room = self.room.checked_sub(1).ok_or_else(|| KernelError::call("creating")("no room"))?;
            Ok(())
        }

        fn store(&mut self, devmaps: &[(u32, Option<&()>)]) -> Result<(), KernelError> {
            if self.refuses {
                return Err(KernelError::call("storing")("refused"));
            }
            let fresh = devmaps.iter().filter(|(_, devmap)| devmap.is_some()).count();
            self.largest_store = self.largest_store.max(fresh);
            for (place, devmap) in devmaps.iter().filter(|(place, _)| *place != NOWHERE) {
                let changed =
                    if devmap.is_some() { self.stored.insert(*place) } else { self.stored.remove(place) };
                assert!(changed, "place {place} was not as the thread believes");
            }
            Ok(())
        }

        fn settle(&self, (): ()) -> Option<Handle> {
            None
        }
    }

    fn filler(room: usize) -> Filler<Model> {
        Filler::new(Model { room, ..Model::default() }, limit::DEVMAPS - 1)
    }

    #[expect(clippy::disallowed_methods, reason = "a time to count from")]
    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// Devmaps, members left behind, and counts of what failed.
    fn fill(
        filler: &mut Filler<Model>,
        now: Instant,
        orders: impl IntoIterator<Item = Order>,
    ) -> (Vec<Devmap>, Vec<u32>, Vec<usize>) {
        let (mut devmaps, mut members, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        filler.fill(now, orders.into_iter(), |delivery| match delivery {
            Delivery::Devmap(devmap) => devmaps.push(devmap),
            Delivery::Remains(remains) => members.extend(remains.members),
            Delivery::Failed { count, .. } => failed.push(count),
        });
        (devmaps, members, failed)
    }

    fn remains(member: u32) -> Box<Remains> {
        Box::new(Remains { members: vec![member], ..Remains::default() })
    }

    fn retire(devmap: Devmap, member: u32) -> Order {
        Order::Retire { devmap: Some(devmap), remains: remains(member), until: Until::Walked }
    }

    #[test]
    fn an_order_ends_at_the_first_devmap_that_cannot_be_made() {
        let mut filler = filler(40);
        let (devmaps, _, failed) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1000 }]);
        assert_eq!((devmaps.len(), failed), (40, vec![960]));
        assert_eq!((filler.kernel.creations, filler.kernel.stored.len()), (41, 40));
    }

    #[test]
    fn a_large_order_has_few_descriptors_open_at_once() {
        let mut filler = filler(1000);
        let (devmaps, _, failed) = fill(&mut filler, *NOW, [Order::Make { size: 2, count: 1000 }]);
        assert_eq!((devmaps.len(), failed.len(), filler.kernel.largest_store), (1000, 0, BATCH));
        let places: BTreeSet<u32> = devmaps.iter().map(Devmap::place).collect();
        assert_eq!((places.len(), devmaps[0].slots()), (1000, SIZES[2] as usize));
    }

    // a program may have read the way to a devmap, and look for the devmap only then
    #[test]
    fn a_devmap_is_taken_out_only_after_nobody_can_come_there() {
        let mut filler = filler(2);
        let (mut devmaps, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        let old = devmaps.remove(0);
        let place = old.place();
        let (_, members, _) = fill(&mut filler, *NOW, [retire(old, 7)]);
        assert_eq!((members, filler.kernel.stored.contains(&place)), (vec![7], true));
        let (_, members, _) = fill(&mut filler, *NOW, []);
        assert_eq!((members.len(), filler.kernel.stored.len()), (0, 0));
        let (devmaps, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        assert_eq!(devmaps[0].place(), place);
    }

    #[test]
    fn what_was_left_behind_waits_until_the_kernel_was_waited_for() {
        let mut filler = filler(2);
        let (mut devmaps, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        filler.kernel.refuses = true;
        let orders = [Order::Make { size: 0, count: 1 }, retire(devmaps.remove(0), 7)];
        let (devmaps, members, failed) = fill(&mut filler, *NOW, orders);
        assert_eq!((devmaps.len(), members.len(), failed), (0, 0, vec![1]));
        let (_, members, _) = fill(&mut filler, *NOW, []);
        assert_eq!((members.len(), filler.kernel.stored.len()), (0, 1));
        filler.kernel.refuses = false;
        let (_, members, _) = fill(&mut filler, *NOW, []);
        assert_eq!(members, vec![7]);
    }

    #[test]
    fn what_was_left_behind_is_free_also_when_no_devmap_can_be_made() {
        let mut filler = filler(1);
        let (mut devmaps, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        let orders = [Order::Make { size: 0, count: 1 }, retire(devmaps.remove(0), 7)];
        let (_, members, failed) = fill(&mut filler, *NOW, orders);
        assert_eq!((members, failed), (vec![7], vec![1]));
    }

    #[test]
    fn what_frames_before_a_relay_may_name_stays_for_as_long_as_they_may_wait() {
        let mut filler = filler(1);
        let (mut devmaps, ..) = fill(&mut filler, *NOW, [Order::Make { size: 0, count: 1 }]);
        let orders = [
            Order::Retire { devmap: devmaps.pop(), remains: remains(7), until: Until::Relayed },
            Order::Retire { devmap: None, remains: remains(8), until: Until::Walked },
        ];
        let (_, members, _) = fill(&mut filler, *NOW, orders);
        assert_eq!((members, filler.kernel.stored.len()), (vec![8], 1));
        let (_, members, _) = fill(&mut filler, *NOW + RELAYED - Duration::from_millis(1), []);
        assert!(members.is_empty());
        let (_, members, _) = fill(&mut filler, *NOW + RELAYED, []);
        assert_eq!((members, filler.kernel.stored.len()), (vec![7], 1));
        let _ = fill(&mut filler, *NOW + RELAYED, []);
        assert_eq!(filler.kernel.stored.len(), 0);
    }
}
