from imagination.declaration import Declaration, Gate
from imagination.schema import RunConfig

TORN = Declaration(
    name="torn", config=RunConfig, metrics={"good": ""}, gate=Gate("bad", 0.5), function="broken.torn:run"
)
