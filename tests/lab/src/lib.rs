//! Labs of network namespaces, their traffic and the judgement on it.
