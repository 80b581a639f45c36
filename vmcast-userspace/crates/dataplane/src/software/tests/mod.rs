mod core;
mod plane;
