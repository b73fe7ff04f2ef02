-- The rows of a file of schema 1, as Durably 0.1.0 left it when it was killed: a run in every state,
-- one in the middle of its steps, one parked behind that one's concurrency key, and one deleted.

insert into durably_version values (1);

insert into durably_runs values ('01a1fe67-7238-740b-adf5-19b3070a3cda','add','completed','1','2',null,'{"org":"one"}','{"current":1,"total":2,"message":null}','first',null,null,'8117-b9d55ec6798b.bell','212859d78f59d8710da8566ad5435f42',1,0,1760000054744,1760000054745,1760000054749,1760000054749);
insert into durably_runs values ('01a1fe67-723e-74b2-803a-2b1abded902e','add','failed','13',null,'{"type":"ValueError","message":"unlucky","step":null,"traceback":"Traceback (most recent call last): ..."}','{}','{"current":1,"total":2,"message":null}',null,null,null,'8117-b9d55ec6798b.bell','dcab30c4e8185d515f6e77514f4d8b3e',1,0,1760000054750,1760000054751,1760000054753,1760000054753);
insert into durably_runs values ('01a1fe67-7246-70de-8eae-f3715a3253dd','add','running','5',null,null,'{}','{"current":1,"total":2,"message":null}',null,'door',1760000074759,'8117-b9d55ec6798b.bell','f1434701917d36f488d23b1fa07f30f5',1,0,1760000054758,1760000054759,null,1760000054760);
insert into durably_runs values ('01a1fe67-7248-709c-b5f9-cbebb8e506e6','add','pending','6',null,null,'{}',null,null,'door',9007199254740991,null,null,0,0,1760000054760,null,null,1760000054760);
insert into durably_runs values ('01a1fe67-7b89-7189-9e8e-b314208a6eee','nap','cancelled','null',null,null,'{}',null,null,null,null,null,null,0,0,1760000057129,null,1760000057130,1760000057130);
insert into durably_runs values ('01a1fe67-7b8b-70e9-b201-5960d5b332b3','nap','pending','null',null,null,'{"org":"two"}',null,'later',null,1760000057131,'elsewhere','428a05ea60113931ee43b2a5f962b7d0',1,0,1760000057131,1760000057132,null,1760000057132);
insert into durably_runs values ('01a1fe67-7b8c-758f-ac17-63450ca9704b','nap','waiting','null',null,null,'{}',null,null,null,1760000058132,'elsewhere','428a05ea60113931ee43b2a5f962b7d0',1,0,1760000057132,1760000057132,null,1760000057132);

insert into durably_journal values (1,'01a1fe67-7238-740b-adf5-19b3070a3cda',1,1760000054744,'run:trigger',null,null,0,null,null);
insert into durably_journal values (2,'01a1fe67-7238-740b-adf5-19b3070a3cda',2,1760000054745,'run:start',null,null,1,1760000054745,null);
insert into durably_journal values (3,'01a1fe67-7238-740b-adf5-19b3070a3cda',3,1760000054748,'step:complete','one',0,1,1760000054748,'1');
insert into durably_journal values (4,'01a1fe67-7238-740b-adf5-19b3070a3cda',4,1760000054748,'step:complete','two',1,1,1760000054748,'1');
insert into durably_journal values (5,'01a1fe67-7238-740b-adf5-19b3070a3cda',5,1760000054749,'run:complete',null,null,1,1760000054745,null);
insert into durably_journal values (6,'01a1fe67-723e-74b2-803a-2b1abded902e',1,1760000054750,'run:trigger',null,null,0,null,null);
insert into durably_journal values (7,'01a1fe67-723e-74b2-803a-2b1abded902e',2,1760000054751,'run:start',null,null,1,1760000054751,null);
insert into durably_journal values (8,'01a1fe67-723e-74b2-803a-2b1abded902e',3,1760000054752,'step:complete','one',0,1,1760000054752,'13');
insert into durably_journal values (9,'01a1fe67-723e-74b2-803a-2b1abded902e',4,1760000054753,'run:fail',null,null,1,1760000054751,'{"type":"ValueError","message":"unlucky","step":null,"traceback":"Traceback (most recent call last): ..."}');
insert into durably_journal values (15,'01a1fe67-7242-71de-a10d-e0989f8e0bd0',6,1760000054758,'run:delete',null,null,1,null,'{"job":"add","labels":{}}');
insert into durably_journal values (16,'01a1fe67-7246-70de-8eae-f3715a3253dd',1,1760000054758,'run:trigger',null,null,0,null,null);
insert into durably_journal values (17,'01a1fe67-7246-70de-8eae-f3715a3253dd',2,1760000054759,'run:start',null,null,1,1760000054759,null);
insert into durably_journal values (18,'01a1fe67-7246-70de-8eae-f3715a3253dd',3,1760000054759,'step:complete','one',0,1,1760000054759,'5');
insert into durably_journal values (19,'01a1fe67-7248-709c-b5f9-cbebb8e506e6',1,1760000054760,'run:trigger',null,null,0,null,null);
insert into durably_journal values (23,'01a1fe67-7b89-7189-9e8e-b314208a6eee',1,1760000057129,'run:trigger',null,null,0,null,null);
insert into durably_journal values (24,'01a1fe67-7b89-7189-9e8e-b314208a6eee',2,1760000057130,'run:cancel',null,null,0,null,null);
insert into durably_journal values (25,'01a1fe67-7b8b-70e9-b201-5960d5b332b3',1,1760000057131,'run:trigger',null,null,0,null,null);
insert into durably_journal values (26,'01a1fe67-7b8c-758f-ac17-63450ca9704b',1,1760000057132,'run:trigger',null,null,0,null,null);
insert into durably_journal values (27,'01a1fe67-7b8b-70e9-b201-5960d5b332b3',2,1760000057132,'run:start',null,null,1,1760000057132,null);
insert into durably_journal values (28,'01a1fe67-7b8c-758f-ac17-63450ca9704b',2,1760000057132,'run:start',null,null,1,1760000057132,null);
insert into durably_journal values (29,'01a1fe67-7b8b-70e9-b201-5960d5b332b3',3,1760000057132,'run:release',null,null,1,1760000057132,null);
insert into durably_journal values (30,'01a1fe67-7b8c-758f-ac17-63450ca9704b',3,1760000057132,'run:wait',null,null,1,1760000057132,null);
