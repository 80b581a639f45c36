//! Writes the families in the text format of OpenMetrics.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::families::{FAMILIES, Family, Figures, Kind, Units, Values};

/// The text that `/metrics` answers with.
pub(super) fn encode(figures: Figures) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(figures));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes all that is written to it");
    page
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        FAMILIES.iter().try_for_each(|family| write(family, self, &mut encoder))
    }
}

/// Writes one family, if it has values at present.
fn write(family: &Family, figures: &Figures, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    match family.kind {
        Kind::Counter(values) => {
            write_values(family, MetricType::Counter, values(figures), encoder, ConstCounter::new)
        }
        Kind::Gauge(values) => {
            write_values(family, MetricType::Gauge, values(figures), encoder, ConstGauge::new)
        }
    }
}

fn write_values<T, M: EncodeMetric>(
    family: &Family,
    kind: MetricType,
    values: Values<T>,
    encoder: &mut DescriptorEncoder<'_>,
    metric: impl Fn(T) -> M,
) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let unit = family.unit.encoded();
    let mut descriptor = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
    values
        .into_iter()
        .try_for_each(|(labels, value)| metric(value).encode(descriptor.encode_family(&labels)?))
}

impl Units {
    /// As the library has it.
    pub(super) const fn encoded(self) -> Option<Unit> {
        match self {
            Self::None => None,
            Self::Seconds => Some(Unit::Seconds),
            Self::Bytes => Some(Unit::Bytes),
        }
    }
}
