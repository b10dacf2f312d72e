<<<<<<<< HEAD:gateway/internal/console/build/assets/comment-WN9rrjbZ.js
import{f as e}from"./query-DJIoP-dE.js";var t=200;function n(n){return e(`label`,{class:n.class,children:[`Comment`,e(`input`,{value:n.value,maxLength:t,onInput:e=>n.set(e.currentTarget.value),placeholder:`optional`})]})}export{n as t};
========
import{m as e}from"./title-BEtRbHO1.js";var t=200;function n(n){return e(`label`,{class:n.class,children:[`Comment`,e(`input`,{value:n.value,maxLength:t,onInput:e=>n.set(e.currentTarget.value),placeholder:`optional`})]})}export{n as t};
>>>>>>>> e5b0dfc0 (Complete the console: webhooks, settings of jobs, held executions):gateway/internal/console/build/assets/comment-D72ghTZS.js
