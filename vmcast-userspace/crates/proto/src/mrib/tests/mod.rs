mod below;
mod model;
mod replay;
mod rules;
mod shares;
mod stated;
