mod model;
mod replay;
mod rules;
