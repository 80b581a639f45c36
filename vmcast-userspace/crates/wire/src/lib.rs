//! Codecs of the protocols vmcast speaks, without I/O.
