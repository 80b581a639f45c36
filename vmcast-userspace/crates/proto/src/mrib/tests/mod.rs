mod model;
mod replay;
mod rules;
mod stated;
